"""Prompts from a grammar: nothing but the standard library is needed.

A prompt says where, when and in which weather a street is seen, and what
stands and moves in it::

    photo from a car's dashboard of a narrow cobbled street in an old
    European town, foggy winter morning, with a yellow tram, parked bicycles
    and bare trees

The words are ours; CLOUDS publishes its prompts without the instruction
that they were written by (arXiv 2312.09788, section 3.1).
"""

import random

from clouds_mmseg.generate.errors import GenerationError
from clouds_mmseg.generate.prompt_file import Unique
from clouds_mmseg.utils.cityscapes import CLASSES

VIEWS = (
    "photo from a car's dashboard of",
    'driving scene, view through the windscreen onto',
    'street-level photo taken from a moving car of',
    'forward-facing camera view of',
    'realistic wide-angle photo of',
    "driver's view along",
)
PLACES = (
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
# Class -> things that show it.
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
_FOCUS = 4
# Draws without a new prompt after which the grammar counts as exhausted.
_PATIENCE = 1000


def template_prompts(num, *, seed=0):
    """Draw prompts from the grammar.

    The classes come from a shuffled deck, four a prompt, so that each of
    them is named in at least one of any ten prompts in a row. The first
    prompts of a longer list are those of a shorter one.

    Args:
        num (int): How many.
        seed (int): Of the random numbers.

    Returns:
        tuple[list[str], int]: The prompts, all different, and how many
        duplicates were dropped.

    Raises:
        GenerationError: ``num`` is below 1 or above what the grammar has.
    """
    if num < 1:
        raise GenerationError(f'--num must be 1 or more, got {num}')
    rng = random.Random(seed)
    unique = Unique()
    deck = []
    failures = 0
    while len(unique.prompts) < num:
        if len(deck) < _FOCUS:
            fresh = list(CLASSES)
            rng.shuffle(fresh)
            # What is left of the old deck comes first, and not twice.
            deck += [name for name in fresh if name not in deck]
        focus, deck = deck[:_FOCUS], deck[_FOCUS:]
        failures = 0 if unique.add(_prompt(rng, focus)) else failures + 1
        if failures > _PATIENCE:
            raise GenerationError(
                f'--num {num}: the grammar has given '
                f'{len(unique.prompts)} different prompts and no new one in '
                f'{_PATIENCE} draws. Ask for fewer.'
            )
    return unique.prompts, unique.duplicates


def _prompt(rng, focus):
    time = rng.choice(TIMES)
    season = rng.choice(SEASONS)
    weather = rng.choice(
        [
            name
            for name, seasons in WEATHERS.items()
            if season in seasons
            and not (time in DARK and name in _BY_DAY_ONLY)
        ]
    )
    things = [rng.choice(THINGS[name]) for name in focus]
    listed = f'{", ".join(things[:-1])} and {things[-1]}'
    return (
        f'{rng.choice(VIEWS)} {rng.choice(PLACES)}, {season}, {time}, '
        f'{weather}, with {listed}'
    )
