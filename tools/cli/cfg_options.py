"""Parser of ``--cfg-options KEY=VALUE ...``.

mmengine's ``DictAction`` removes every blank, strips quotes and then reads
``'1'`` as a number, and cannot read what it prints. Here a value in quotes
is a Python string, brackets nest, and blanks inside a value stay.
"""

import argparse
import ast
from collections.abc import Iterable
from typing import Any

_CLOSING = {'(': ')', '[': ']', '{': '}'}
_CONSTANTS = {'true': True, 'false': False}


class CfgOptions(argparse.Action):
    """Collect ``KEY=VALUE`` words in a dict, read by :func:`parse_value`."""

    def __call__(self, parser, namespace, values, option_string=None):
        """Add words to what earlier options have collected."""
        options = dict(getattr(namespace, self.dest, None) or {})
        try:
            options.update(parse_options(values or ()))
        except ValueError as error:
            parser.error(f'argument {option_string}: {error}')
        setattr(namespace, self.dest, options)


def parse_options(words: Iterable[str]) -> dict:
    """Read ``KEY=VALUE`` words.

    Args:
        words: Arguments of the option.

    Returns:
        Dotted key -> value, see :func:`parse_value`; of a key that is given
        twice the last value.

    Raises:
        ValueError: A word has no ``=`` or no key, or its brackets do not
            match.
    """
    options = {}
    for word in words:
        key, equals, text = word.partition('=')
        key = key.strip()
        if not equals or not key or not all(key.split('.')):
            raise ValueError(
                f'{word!r} is not of the form KEY=VALUE, as in '
                'train_cfg.max_iters=100; put quotes around a pair that has '
                'blanks'
            )
        try:
            options[key] = parse_value(text)
        except ValueError as error:
            raise ValueError(f'{key}: {error}') from error
    return options


def parse_value(
    text: str,
) -> str | int | float | bool | None | list | tuple | dict:
    """Read a value as a Python literal, whose strings may lack quotes.

    Numbers, ``None``, ``True`` and ``true``, lists ``[a, b]``, tuples
    ``(a, b)``, dicts ``{key: value}``, all nested; ``a,b`` is a list too.
    Any other text is a string, including inner blanks. In quotes
    (``'...'`` or ``"..."``, with Python's escapes) it is a string in any
    case: ``'1'``, ``'a, b'``.

    Args:
        text: Text after ``KEY=``.

    Returns:
        The value; ``parse_value(repr(value)) == value``.

    Raises:
        ValueError: Brackets do not match.
    """
    parts = _split(text, ',')
    if len(parts) == 1:
        return _element(text)
    return _elements(parts)


def format_value(value: Any) -> str:
    """Format a value so that :func:`parse_value` reads it back.

    Args:
        value: As :func:`parse_value` returns it.

    Returns:
        A string as it is where that is clear, otherwise a literal.
    """
    if not isinstance(value, str):
        return repr(value)
    try:
        parsed = parse_value(value)
    except ValueError:
        parsed = None
    return value if parsed == value else repr(value)


def _elements(parts):
    """Read the elements of a sequence; a comma may end it."""
    if not parts[-1].strip():
        parts = parts[:-1]
    return [_element(part) for part in parts]


def _element(text):
    """Read one value that is no bare sequence."""
    text = text.strip()
    if text and _closes_at(text) == len(text) - 1:
        if text[0] in '\'"':
            return _string(text)
        parts = _split(text[1:-1], ',', begins=',:' if text[0] == '{' else ',')
        if text[0] == '[':
            return _elements(parts)
        if text[0] == '(':
            return tuple(_elements(parts))
        pairs = _pairs(parts)
        # Braces also occur in file name templates: {split}.
        return text if pairs is None else pairs
    return _scalar(text)


def _string(text):
    """Read a string in quotes."""
    try:
        return ast.literal_eval(text)
    except (SyntaxError, ValueError):
        # No escape of Python, such as a Windows path: 'D:\xdata'.
        return text[1:-1]


def _pairs(parts):
    """Read ``key: value`` pairs, None if one is no pair."""
    if not parts[-1].strip():
        parts = parts[:-1]
    pairs = [_split(part, ':', begins=':', once=True) for part in parts]
    if any(len(pair) < 2 for pair in pairs):
        return None
    return {_element(key): _element(value) for key, value in pairs}


def _scalar(text):
    """Read a number or constant; everything else is a string."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            pass
    if text == 'None':
        return None
    return _CONSTANTS.get(text.lower(), text)


def _closes_at(text) -> int:
    """Index at which the quote or bracket that begins a text is closed.

    Returns:
        -1 for a text that begins with neither, or an open quote.

    Raises:
        ValueError: The bracket that begins the text is not closed.
    """
    if not text:
        return -1
    if text[0] in '\'"':
        return _quote_end(text, 0)
    if text[0] not in _CLOSING:
        return -1
    return _bracket_end(text, 0)


def _quote_end(text, start):
    """Index of the quote that ends a string, -1 if there is none."""
    index = start + 1
    while index < len(text):
        if text[index] == '\\':
            index += 1
        elif text[index] == text[start]:
            return index
        index += 1
    return -1


def _bracket_end(text, start):
    """Index of the bracket that closes the one at ``start``."""
    open_, index, fresh = [], start, True
    while index < len(text):
        letter = text[index]
        # A quote opens a string where an element begins; it's an apostrophe
        # inside of a word.
        if fresh and letter in '\'"':
            end = _quote_end(text, index)
            index = end if end > 0 else index
        elif letter in _CLOSING:
            open_.append(_CLOSING[letter])
        elif letter in ')]}':
            if letter != open_.pop():
                break
            if not open_:
                return index
        begins = ',:([{' if open_[-1:] == ['}'] else ',([{'
        fresh = letter in begins or (fresh and letter.isspace())
        index += 1
    raise ValueError(
        f'the brackets of {text!r} do not match; put quotes around a string '
        'that has brackets'
    )


def _split(text, mark, *, begins=',', once=False):
    """Split a text at marks outside of quotes and brackets.

    A quote opens a string behind one of ``begins`` only.
    """
    parts, begin, index, fresh = [], 0, 0, True
    while index < len(text):
        letter = text[index]
        if letter in _CLOSING and (fresh or ',' in text):
            index = _bracket_end(text, index)
        elif fresh and letter in '\'"':
            end = _quote_end(text, index)
            index = end if end > 0 else index
        elif letter == mark:
            parts.append(text[begin:index])
            begin = index + 1
            if once:
                break
        fresh = letter in begins or (fresh and letter.isspace())
        index += 1
    return [*parts, text[begin:]]
