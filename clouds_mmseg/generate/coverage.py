"""Which of the 19 classes prompts speak of."""

import re

from clouds_mmseg.utils.cityscapes import CLASSES

# Words, singular, under which a prompt may name a class.
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
_PLURALS = '(?:s|es)?'


def _pattern(words):
    choices = '|'.join(
        re.escape(word).replace(r'\|', r'\s+') for word in words.split()
    )
    return re.compile(rf'\b(?:{choices}){_PLURALS}\b', re.IGNORECASE)


_PATTERNS = {name: _pattern(words) for name, words in WORDS.items()}


def classes_in(prompt):
    """Return the classes that a prompt names.

    Args:
        prompt (str): Any text.

    Returns:
        list[str]: Names of :data:`CLASSES`, in their order.
    """
    return [name for name in CLASSES if _PATTERNS[name].search(prompt)]


def class_coverage(prompts):
    """Count the prompts that name each class.

    Args:
        prompts (Iterable[str]): Any texts.

    Returns:
        dict[str, int]: Class -> number of prompts, all 19 classes.
    """
    counts = dict.fromkeys(CLASSES, 0)
    for prompt in prompts:
        for name in classes_in(prompt):
            counts[name] += 1
    return counts


def coverage_lines(counts, total):
    """Write a coverage for people.

    Args:
        counts (dict[str, int]): Of :func:`class_coverage`.
        total (int): Number of prompts.

    Returns:
        list[str]: One line a class, and one about those that are missing.
    """
    lines = [
        f'  {name:<14} {count:>5}  {100 * count / total:5.1f} %'
        for name, count in counts.items()
    ]
    missing = [name for name, count in counts.items() if not count]
    if missing:
        lines.append(f'no prompt names: {", ".join(missing)}')
    return lines
