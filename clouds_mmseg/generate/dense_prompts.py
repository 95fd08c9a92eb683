"""Prompts of dense scenes, and of other weather and light for real ones.

A dense prompt names many classes, each with its position and often its
material, the place, the light, the weather and the lens. Dense, detailed
prompts gave better training images than sparse ones in SENSE
(arXiv 2605.19289).
"""

import random
from collections.abc import Callable, Mapping, Sequence

from clouds_mmseg.generate.prompts import (
    DARK,
    LOCATIONS,
    PATIENCE,
    SEASONS,
    THINGS,
    TIMES,
    UniquePrompts,
    draw_weather,
    template_prompts,
)
from clouds_mmseg.utils.cityscapes import CLASSES
from clouds_mmseg.utils.errors import GenerationError

KINDS = ('dense', 'short', 'restyle', 'edit')
# Classes per dense prompt. With the rest of the prompt they fit the 77
# tokens of CLIP's text encoders.
CLASSES_PER_PROMPT = 8
# Prompts by which a class may come earlier or later than its turn, so that
# not always the same classes are together.
_JITTER = 0.3
# Words that 77 tokens of CLIP hold, roughly: 1.3 tokens a word.
MAX_WORDS = 57
# Class -> objects of it with their material or state, beside THINGS.
DETAILED = {
    'road': ('a worn asphalt road', 'a cobbled road', 'a wet concrete road',
             'a road with faded lane markings'),
    'sidewalk': ('a brick sidewalk', 'a sidewalk of concrete slabs',
                 'a granite kerb'),
    'building': ('plastered houses', 'red brick buildings',
                 'a concrete office tower', 'shops with glass fronts'),
    'wall': ('a mossy stone wall', 'a brick wall', 'a concrete wall'),
    'fence': ('a rusty iron fence', 'a steel guardrail', 'a wire fence',
              'a wooden fence'),
    'pole': ('galvanised lamp poles', 'a wooden utility pole',
             'thin steel poles'),
    'traffic light': ('a traffic light on a mast', 'a yellow traffic light',
                      'two hanging traffic lights'),
    'traffic sign': ('a round traffic sign', 'a blue traffic sign',
                     'triangular traffic signs', 'a stop sign'),
    'vegetation': ('plane trees', 'a clipped hedge', 'dense bushes',
                   'bare trees'),
    'terrain': ('a grass strip', 'dry grass', 'a muddy verge',
                'a gravelly meadow'),
    'sky': ('a broad sky', 'low clouds', 'a clear sky'),
    'person': ('pedestrians in coats', 'a man with a bag', 'school children',
               'people at a crossing'),
    'rider': ('a cyclist in a yellow vest', 'a helmeted motorcyclist',
              'a delivery rider'),
    'car': ('a dark sedan', 'parked hatchbacks', 'a white suv',
            'queueing cars'),
    'truck': ('a rusty lorry', 'a box truck', 'a cement truck'),
    'bus': ('an articulated bus', 'a red city bus', 'a white coach'),
    'train': ('a yellow tram', 'a low-floor tram', 'a freight train'),
    'motorcycle': ('a chrome motorcycle', 'a parked scooter',
                   'two mopeds'),
    'bicycle': ('a steel bicycle', 'locked bicycles', 'a cargo bike'),
}  # fmt: skip
# Where an object of a class can be, in the order of the prompt.
_AHEAD = ('road', 'car', 'truck', 'bus', 'train', 'rider', 'motorcycle',
          'traffic light')  # fmt: skip
_ABOVE = ('sky',)
_LENSES = (
    'dashcam photo', '24mm photo', '35mm photo', 'wide-angle photo',
    'sharp smartphone photo', 'fisheye photo', 'grainy photo',
)  # fmt: skip
_BY_DAY = (
    'soft light', 'low sun from the left', 'harsh light', 'backlight',
    'diffuse light', 'long shadows', 'sunlight between the houses',
)  # fmt: skip
_BY_NIGHT = (
    'sodium lamps', 'light of shop windows', 'headlight glare',
    'cold LED lamps', 'neon light',
)  # fmt: skip
_KEEP = (
    'Keep every object where it is.',
    'Change only light and weather, not the objects.',
    'The same street with the same cars, people and buildings.',
    'Keep the layout and all outlines.',
)
_EDITS = (
    'The same street on a {season} {time} with {weather}, {light}. {keep}',
    'Make it {time} in {season}, {weather}, {light}. {keep}',
    'Turn this photo into {time} in {season} with {weather} and {light}. '
    '{keep}',
)


def make_prompts(
    kind: str,
    num: int,
    *,
    seed: int = 0,
    shares: Mapping[str, float] | None = None,
    per_prompt: int = CLASSES_PER_PROMPT,
    fits: Callable[[str], bool] | None = None,
) -> tuple[list[str], int]:
    """Draw prompts of a kind from the grammar.

    A shorter list is the beginning of a longer one.

    Args:
        kind: ``'dense'``: many classes, positions, materials; ``'short'``:
            four classes, as of the official prompts' length; ``'restyle'``:
            weather, light and lens alone, for images of any content;
            ``'edit'``: instructions to change an image.
        num: Number of prompts.
        seed: Of the random numbers.
        shares: Dense: class -> share of prompts that names it, in [0, 1],
            see :func:`naming_shares`. By default all equal.
        per_prompt: Dense: classes per prompt, in 1..19.
        fits: Whether a prompt is short enough; by default one of at most
            ``MAX_WORDS`` words.

    Returns:
        The prompts, all different, and the number of duplicates dropped.

    Raises:
        GenerationError: An argument is out of its range, or the grammar has
            fewer prompts than ``num`` or none that is short enough.
    """
    if kind not in KINDS:
        raise GenerationError(
            f'--kind must be one of {", ".join(KINDS)}, got {kind!r}'
        )
    if kind == 'short':
        return template_prompts(num, seed=seed)
    if num < 1:
        raise GenerationError(f'--num must be 1 or more, got {num}')
    if not 1 <= per_prompt <= len(CLASSES):
        raise GenerationError(
            f'--classes-per-prompt must be in 1..{len(CLASSES)}, got '
            f'{per_prompt}'
        )
    fits = fits or (lambda text: len(text.split()) <= MAX_WORDS)
    rng = random.Random(f'{seed}/{kind}')
    deck = ClassDeck(
        shares or naming_shares(None, per_prompt), rng, per_prompt
    )
    unique, failures = UniquePrompts(), 0
    while len(unique.prompts) < num:
        if kind == 'dense':
            text, named = _dense(rng, deck.draw(), fits)
            deck.count(named)
        else:
            text = _styled(rng, kind)
            if not fits(text):
                raise GenerationError(
                    f'a prompt of --kind {kind} is longer than the text '
                    f'encoder of --for-model reads: {text!r}. Give the folder '
                    'of a pipeline that reads more, or take --kind dense, '
                    'which is shortened'
                )
        failures = 0 if unique.add(text) else failures + 1
        if failures > PATIENCE:
            raise GenerationError(
                f'--num {num}: the grammar of --kind {kind} has given '
                f'{len(unique.prompts)} different prompts and no new one in '
                f'{PATIENCE} draws. Ask for fewer.'
            )
    return unique.prompts, unique.duplicates


def naming_shares(
    pixels: Mapping[str, int] | None, per_prompt: int = CLASSES_PER_PROMPT
) -> dict[str, float]:
    """Compute how often each class is to be named, from what a source has.

    The share of prompts that name a class is proportional to the inverse
    square root of its share of the source's pixels, cut at 1; a class that
    the source lacks counts like its rarest one.

    Args:
        pixels: Class -> pixels in the source, see
            :func:`~clouds_mmseg.engine.image_sources.dataset_pixels`. None:
            all classes equally often.
        per_prompt: Classes per prompt.

    Returns:
        Class -> share in [0, 1]; they sum to ``per_prompt``.

    Raises:
        GenerationError: There is no pixel of any class of Cityscapes.
    """
    counts = {name: (pixels or {}).get(name, 0) for name in CLASSES}
    if pixels is None:
        counts = dict.fromkeys(CLASSES, 1)
    present = [count for count in counts.values() if count > 0]
    if not present:
        raise GenerationError(
            'the class statistics have no pixel of a class of Cityscapes: '
            f'{", ".join(list(pixels or {})[:5])} ...'
        )
    weights = {
        name: max(count, min(present)) ** -0.5
        for name, count in counts.items()
    }
    shares = dict.fromkeys(CLASSES, 0.0)
    open_, left = set(CLASSES), float(min(per_prompt, len(CLASSES)))
    # Those that would be named more often than always are always named, and
    # the others share the rest.
    while open_ and left > 0:
        total = sum(weights[name] for name in open_)
        full = {n for n in open_ if weights[n] * left >= total * (1 - 1e-9)}
        if not full:
            shares.update({n: weights[n] * left / total for n in open_})
            break
        shares.update(dict.fromkeys(full, 1.0))
        open_ -= full
        left -= len(full)
    return shares


class ClassDeck:
    """Draws the classes of prompts, each class in its share of them.

    After n prompts a class was named in about n times its share of them: at
    each prompt those come next that lag behind most.

    Args:
        shares: Of :func:`naming_shares`.
        rng: Breaks ties.
        per_prompt: Classes per prompt.
    """

    def __init__(
        self, shares: Mapping[str, float], rng: random.Random, per_prompt: int
    ):
        self.shares = shares
        self.rng = rng
        self.per_prompt = per_prompt
        self.behind = dict.fromkeys(CLASSES, 0.0)

    def draw(self) -> list[str]:
        """Return the classes of the next prompt, the most urgent first."""
        for name in CLASSES:
            self.behind[name] += self.shares.get(name, 0.0)
        urgency = {
            name: (
                self.shares.get(name, 0.0) >= 1,
                self.behind[name] + _JITTER * self.rng.random(),
            )
            for name in CLASSES
        }
        order = sorted(CLASSES, key=lambda n: urgency[n], reverse=True)
        return order[: self.per_prompt]

    def next(self) -> list[str]:
        """Return the classes of the next prompt, which names them all."""
        chosen = self.draw()
        self.count(chosen)
        return chosen

    def count(self, named: Sequence[str]) -> None:
        """Count the classes that the prompt names."""
        for name in named:
            self.behind[name] -= 1


def _light(rng, time):
    return rng.choice(_BY_NIGHT if time in DARK else _BY_DAY)


def _styled(rng, kind):
    """A prompt about weather and light alone, or an instruction."""
    time, season = rng.choice(TIMES), rng.choice(SEASONS)
    weather = draw_weather(rng, season, time)
    light = _light(rng, time)
    if kind == 'edit':
        return rng.choice(_EDITS).format(
            season=season, time=time, weather=weather, light=light,
            keep=rng.choice(_KEEP),
        )  # fmt: skip
    return (
        f"{rng.choice(_LENSES)}, driver's view of a street, {season}, {time}, "
        f'{weather}, {light}, realistic, detailed'
    )


def _dense(rng, classes, fits):
    """Return a prompt and those of the classes, from the first, it names."""
    time, season = rng.choice(TIMES), rng.choice(SEASONS)
    weather = draw_weather(rng, season, time)
    lens, light = rng.choice(_LENSES), _light(rng, time)
    place = rng.choice(LOCATIONS)
    things = {
        name: rng.choice((*DETAILED[name], *THINGS[name])) for name in classes
    }
    short = {name: rng.choice(DETAILED[name]) for name in classes}
    sides = {name: rng.random() < 0.5 for name in classes}
    for named, context in (
        (things, (season, time, weather, light)),
        (short, (season, time, weather, light)),
        (short, (time, weather, light)),
        (short, (time, weather)),
    ):
        text = _scene(lens, place, context, named, sides, classes)
        if fits(text):
            return text, classes
    # Fewer classes, the most urgent ones at least.
    for count in range(len(classes) - 1, 0, -1):
        first = classes[:count]
        text = _scene(lens, place, (time, weather), short, sides, first)
        if fits(text):
            return text, first
    raise GenerationError(
        f'no dense prompt is short enough for the text encoder; the shortest '
        f'is {text!r}'
    )


def _scene(lens, place, context, things, sides, classes):
    groups: dict[str, list[str]] = {
        'ahead': [], 'left': [], 'right': [], 'above': [],
    }  # fmt: skip
    for name in classes:
        if name in _ABOVE:
            group = 'above'
        elif name in _AHEAD:
            group = 'ahead'
        else:
            group = 'left' if sides[name] else 'right'
        groups[group].append(things[name])
    parts = [f"{lens}, driver's view of {place}", ', '.join(context)]
    for group, found in groups.items():
        if found:
            parts.append(f'{group} {_listed(found)}')
    return '; '.join(parts)


def _listed(words: Sequence[str]) -> str:
    if len(words) == 1:
        return words[0]
    return f'{", ".join(words[:-1])} and {words[-1]}'
