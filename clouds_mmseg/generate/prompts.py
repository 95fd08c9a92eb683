"""Text prompts: a grammar of street scenes, prompt files, class coverage."""

import hashlib
import json
import random
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from clouds_mmseg.utils.atomic import atomic_path
from clouds_mmseg.utils.cityscapes import CLASSES
from clouds_mmseg.utils.errors import GenerationError, UserError
from clouds_mmseg.utils.text_files import read_lines

# Class -> singular words by which a prompt names it; | joins two words.
WORDS = {
    'road': 'road street avenue boulevard lane highway crossroads'
    ' intersection alley roundabout asphalt carriageway',
    'sidewalk': 'sidewalk pavement footpath kerb curb',
    'building': 'building house shop tower apartment skyscraper warehouse'
    ' church office facade storefront',
    'wall': 'wall',
    'fence': 'fence railing guardrail',
    'pole': 'pole post lamppost streetlight street|lamp mast',
    'traffic light': 'traffic|light stoplight traffic|signal',
    'traffic sign': 'traffic|sign road|sign street|sign stop|sign sign'
    ' signpost',
    'vegetation': 'vegetation tree bush hedge shrub plant foliage palm'
    ' greenery',
    'terrain': 'terrain grass lawn meadow verge soil field',
    'sky': 'sky cloud horizon',
    'person': 'person people pedestrian man men woman women child children'
    ' commuter',
    'rider': 'rider cyclist motorcyclist biker',
    'car': 'car taxi sedan suv hatchback vehicle',
    'truck': 'truck lorry van',
    'bus': 'bus coach minibus',
    'train': 'train tram streetcar',
    'motorcycle': 'motorcycle motorbike scooter moped',
    'bicycle': 'bicycle bike',
}
VIEWS = (
    "photo from a car's dashboard of",
    'driving scene, view through the windscreen onto',
    'street-level photo taken from a moving car of',
    'forward-facing camera view of',
    'realistic wide-angle photo of',
    "driver's view along",
)
LOCATIONS = (
    'a busy avenue in a European city',
    'a narrow cobbled street in an old town',
    'a wide boulevard in an American city',
    'a residential street in a quiet suburb',
    'a four-lane road through an industrial district',
    'a shopping street in an Asian metropolis',
    'a village main road between fields',
    'a hillside street in a Mediterranean town',
    'a tree-lined road beside a park',
    'a city intersection among skyscrapers',
    'a road along a river front',
    'a street of brick houses in a northern town',
    'an arterial road past apartment blocks',
    'a road under construction in a growing city',
    'a street in a dry desert city',
    'a coastal road lined with palms',
)
TIMES = (
    'early morning',
    'morning',
    'noon',
    'afternoon',
    'golden hour before sunset',
    'dusk',
    'evening after dark',
    'night',
)
DARK = ('evening after dark', 'night')
SEASONS = ('spring', 'summer', 'autumn', 'winter')
# Weather -> seasons in which it is plausible.
WEATHERS = {
    'clear weather': SEASONS,
    'bright sun with hard shadows': SEASONS,
    'scattered clouds': SEASONS,
    'a grey overcast sky': SEASONS,
    'light fog': SEASONS,
    'dense fog': ('autumn', 'winter', 'spring'),
    'haze': ('summer', 'spring'),
    'drizzle': SEASONS,
    'heavy rain and a wet reflecting road': SEASONS,
    'puddles after a rain shower': SEASONS,
    'light snowfall': ('winter',),
    'a blizzard and a snow-covered road': ('winter',),
    'melting snow at the kerb': ('winter', 'spring'),
}
_BY_DAY_ONLY = ('bright sun with hard shadows', 'haze')
# Class -> objects of it.
THINGS = {
    'road': ('an open road ahead', 'fresh lane markings on the road',
             'a road with patched asphalt'),
    'sidewalk': ('broad sidewalks', 'a paved sidewalk along the shops',
                 'a narrow sidewalk with a high kerb'),
    'building': ('tall buildings', 'old houses', 'glass office buildings'),
    'wall': ('a long concrete wall', 'a garden wall', 'a graffiti wall'),
    'fence': ('a wooden fence', 'a metal fence', 'a chain-link fence'),
    'pole': ('street lamp poles', 'a row of utility poles',
             'poles with overhead wires'),
    'traffic light': ('a red traffic light', 'traffic lights on a gantry',
                      'a green traffic light at the crossing'),
    'traffic sign': ('several traffic signs', 'a stop sign',
                     'a large overhead road sign'),
    'vegetation': ('leafy trees', 'dense hedges', 'rows of trees'),
    'terrain': ('a grass verge', 'a mown lawn', 'a strip of bare soil'),
    'sky': ('a wide sky', 'an open sky above the roofs',
            'dramatic clouds in the sky'),
    'person': ('pedestrians crossing', 'people waiting at the kerb',
               'a woman with a child on foot'),
    'rider': ('a cyclist riding ahead', 'a motorcyclist in a helmet',
              'two cyclists side by side'),
    'car': ('oncoming cars', 'a line of parked cars', 'a car braking ahead'),
    'truck': ('a delivery truck', 'a heavy truck in the next lane',
              'a parked lorry'),
    'bus': ('a city bus at its stop', 'a double-decker bus', 'a school bus'),
    'train': ('a tram in the middle of the road', 'a passing tram',
              'a train on a crossing'),
    'motorcycle': ('a parked motorcycle', 'motorcycles between the cars',
                   'a scooter at the kerb'),
    'bicycle': ('parked bicycles', 'a bicycle leaning on a pole',
                'bicycles in a rack'),
}  # fmt: skip
# Classes per prompt.
_FOCUS = 4
# Consecutive duplicates after which the grammar counts as exhausted.
PATIENCE = 1000
_PLURALS = '(?:s|es)?'


def _pattern(words):
    choices = '|'.join(
        re.escape(word).replace(r'\|', r'\s+') for word in words.split()
    )
    return re.compile(rf'\b(?:{choices}){_PLURALS}\b', re.IGNORECASE)


_PATTERNS = {name: _pattern(words) for name, words in WORDS.items()}


def classes_in(prompt: str) -> list[str]:
    """Return the Cityscapes classes that a prompt names, in their order."""
    return [name for name in CLASSES if _PATTERNS[name].search(prompt)]


def class_coverage(prompts: Iterable[str]) -> dict[str, int]:
    """Count the prompts that name each of the 19 classes."""
    counts = dict.fromkeys(CLASSES, 0)
    for prompt in prompts:
        for name in classes_in(prompt):
            counts[name] += 1
    return counts


def coverage_lines(counts: Mapping[str, int], total: int) -> list[str]:
    """Format a coverage: a line per class, and one of the missing ones.

    Args:
        counts: Of :func:`class_coverage`.
        total: Number of prompts.
    """
    lines = [
        f'  {name:<14} {count:>5}  {100 * count / total:5.1f} %'
        for name, count in counts.items()
    ]
    missing = [name for name, count in counts.items() if not count]
    if missing:
        lines.append(f'no prompt names: {", ".join(missing)}')
    return lines


def read_prompts(path: str | Path) -> list[tuple[int, str]]:
    """Read a prompt file; empty lines are skipped.

    Args:
        path: A UTF-8 text file, one prompt per line.

    Returns:
        Line number, from 1, and text of each prompt.

    Raises:
        GenerationError: The file is missing, not UTF-8, binary or empty.
    """
    path = Path(path)
    hint = 'Make one with: clouds prompts --num 100 --out'
    what = 'the prompt file'
    try:
        lines = read_lines(path, what)
    except UserError as error:
        raise GenerationError(f'{error}. {hint} FILE') from error
    prompts = [(number, ' '.join(line.split())) for number, line in lines]
    if not prompts:
        raise GenerationError(
            f'the prompt file {path} is empty: it must have one prompt a '
            f'line. {hint} {path}'
        )
    return prompts


def write_prompts(
    path: str | Path, prompts: Sequence[str], how: Mapping
) -> Path:
    """Write a prompt file and ``<name>.json`` beside it.

    Args:
        path: The text file. The JSON file has the same name with the suffix
            ``.json``.
        prompts: One line each.
        how: Their provenance; JSON values. Number, coverage and hash are
            added.

    Returns:
        The JSON file.

    Raises:
        GenerationError: They cannot be written there.
    """
    path = Path(path)
    beside = path.with_suffix('.json')
    if beside == path:
        raise GenerationError(
            f'--out {path} is the name of the JSON file beside the prompts; '
            'give the prompts another suffix, such as .txt'
        )
    payload = ''.join(f'{prompt}\n' for prompt in prompts).encode()
    how = dict(
        how,
        num=len(prompts),
        coverage=class_coverage(prompts),
        sha256=hashlib.sha256(payload).hexdigest(),
    )
    text = json.dumps(how, indent=2, ensure_ascii=False) + '\n'
    try:
        for file, content in ((beside, text.encode()), (path, payload)):
            # Unchanged files may be on a read-only disk.
            if not (file.is_file() and file.read_bytes() == content):
                with atomic_path(file) as temporary:
                    temporary.write_bytes(content)
    except OSError as error:
        raise GenerationError(
            f'the prompts cannot be written to {path}: {error}'
        ) from error
    return beside


class UniquePrompts:
    """Collection without prompts that differ only in case and punctuation."""

    def __init__(self):
        self.prompts = []
        self.duplicates = 0
        self._keys = set()

    def add(self, prompt: str) -> bool:
        """Add a prompt and return whether it was new."""
        key = normalise(prompt)
        if key in self._keys:
            self.duplicates += 1
            return False
        self._keys.add(key)
        self.prompts.append(prompt)
        return True


def normalise(prompt: str) -> str:
    """Return the words of a prompt in lower case, one space apart."""
    kept = ''.join(c if c.isalnum() else ' ' for c in prompt.casefold())
    return ' '.join(kept.split())


def template_prompts(num: int, *, seed: int = 0) -> tuple[list[str], int]:
    """Draw prompts from the grammar.

    The classes come from a shuffled deck, four per prompt, so that any ten
    consecutive prompts name each of them. A shorter list is the beginning of
    a longer one.

    Args:
        num: Number of prompts.
        seed: Of the random numbers.

    Returns:
        The prompts, all different, and the number of duplicates dropped.

    Raises:
        GenerationError: ``num`` is below 1 or above what the grammar has.
    """
    if num < 1:
        raise GenerationError(f'--num must be 1 or more, got {num}')
    rng = random.Random(seed)
    unique = UniquePrompts()
    deck = []
    failures = 0
    while len(unique.prompts) < num:
        if len(deck) < _FOCUS:
            fresh = list(CLASSES)
            rng.shuffle(fresh)
            # The rest of the old deck comes first, without repetition.
            deck += [name for name in fresh if name not in deck]
        focus, deck = deck[:_FOCUS], deck[_FOCUS:]
        failures = 0 if unique.add(_prompt(rng, focus)) else failures + 1
        if failures > PATIENCE:
            raise GenerationError(
                f'--num {num}: the grammar has given '
                f'{len(unique.prompts)} different prompts and no new one in '
                f'{PATIENCE} draws. Ask for fewer.'
            )
    return unique.prompts, unique.duplicates


def draw_weather(rng: random.Random, season: str, time: str) -> str:
    """Draw one of WEATHERS that is plausible in a season and at a time."""
    return rng.choice(
        [
            name
            for name, seasons in WEATHERS.items()
            if season in seasons
            and not (time in DARK and name in _BY_DAY_ONLY)
        ]
    )


def _prompt(rng, focus):
    time = rng.choice(TIMES)
    season = rng.choice(SEASONS)
    weather = draw_weather(rng, season, time)
    things = [rng.choice(THINGS[name]) for name in focus]
    listed = f'{", ".join(things[:-1])} and {things[-1]}'
    return (
        f'{rng.choice(VIEWS)} {rng.choice(LOCATIONS)}, {season}, {time}, '
        f'{weather}, with {listed}'
    )
