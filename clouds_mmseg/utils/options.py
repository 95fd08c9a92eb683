"""Checks of options that are lists of names, with suggestions."""

import difflib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from clouds_mmseg.utils.errors import UserError


def name_list(value: Any, option: str, *, unique: bool = True) -> list[str]:
    """Take an option that is a list of names.

    ``('road')`` is a str in Python, and a str is a sequence of letters:
    without this, the classes would be r, o, a, d.

    Args:
        value: What was given.
        option: Name of the option, for the message.
        unique: Whether a name may stand only once.

    Raises:
        UserError: It is a str or no sequence, an entry is no str, or a name
            occurs twice.
    """
    if isinstance(value, str):
        raise UserError(
            f'{option}={value!r} is a str, not a list: write '
            f'{option}=[{value!r}], or ({value!r},) with the comma'
        )
    if isinstance(value, dict) or not isinstance(value, Iterable):
        raise UserError(
            f'{option}={value!r} is a {type(value).__name__}, not a list of '
            'names'
        )
    names = list(value)
    wrong = [name for name in names if not isinstance(name, str)]
    if wrong:
        raise UserError(
            f'{option} has the entry {wrong[0]!r}, a '
            f'{type(wrong[0]).__name__}: its entries are names (str)'
        )
    double = list(dict.fromkeys(n for n in names if names.count(n) > 1))
    if unique and double:
        raise UserError(f'{option} has twice: {", ".join(double)}')
    return names


def shared_words(
    groups: Mapping[str, Iterable[str]],
) -> list[tuple[str, str, str]]:
    """Find words of two classes, which no text encoder tells apart.

    They are compared without case and further spaces, as CLIP's tokenizers
    read them.

    Args:
        groups: Class -> its words.

    Returns:
        Word, the class that has it first, and another one.
    """
    owners: dict[str, str] = {}
    found = []
    for name, words in groups.items():
        for word in words:
            first = owners.setdefault(' '.join(word.lower().split()), name)
            if first != name:
                found.append((word, first, name))
    return found


def check_palette(
    palette: Any, classes: Sequence[str], option: str = 'palette'
) -> list[list[int]]:
    """Take the colours of classes.

    Args:
        palette: What was given: an RGB triple for each class, 0..255.
        classes: Names.
        option: Name of the option, for the message.

    Raises:
        UserError: It has another length, or an entry is no such triple.
    """
    if isinstance(palette, (str, dict)) or not isinstance(palette, Iterable):
        raise UserError(
            f'{option}={palette!r} is a {type(palette).__name__}, not a list '
            'of colours such as [[128, 64, 128], [0, 0, 142]]'
        )
    colours = list(palette)
    for place, colour in enumerate(colours):
        triple = isinstance(colour, (list, tuple)) and len(colour) == 3
        if not triple or not all(
            type(value) is int and 0 <= value <= 255 for value in colour
        ):
            raise UserError(
                f'{option}[{place}]={colour!r} is no colour: three integers '
                'in 0..255 (red, green, blue)'
            )
    if len(colours) != len(classes):
        raise UserError(
            f'{option} has {len(colours)} colours for {len(classes)} classes '
            f'({", ".join(classes)}): give one for each, or leave it out'
        )
    return [list(colour) for colour in colours]


def near_names(wrong: Iterable[str], known: Iterable[str]) -> str:
    """Say what was probably meant, and what there is.

    Returns:
        ``'; perhaps 'road'. There are: road, car'``: the end of a message.
    """
    known = [str(name) for name in known]
    near = {match for name in wrong for match in closest_names(name, known)}
    said = f'; perhaps {", ".join(map(repr, sorted(near)))}' if near else ''
    return f'{said}. There are: {", ".join(known)}'


def closest_names(
    name: str, known: Iterable[str], *, most: int = 1, cutoff: float = 0.6
) -> list[str]:
    """Return the names that are spelt most like another.

    Args:
        name: Perhaps misspelt.
        known: Names that there are.
        most: Number of names at the most.
        cutoff: Least similarity, in [0, 1].

    Returns:
        The closest first; none where no name is similar.
    """
    known = [str(each) for each in known]
    return difflib.get_close_matches(str(name), known, n=most, cutoff=cutoff)
