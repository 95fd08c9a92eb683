"""Text and JSON files that people edit: one reader for all of them.

Editors on Windows begin a file with a byte order mark, end lines with CRLF
and write UTF-16 under the name "Unicode"; people leave blank lines and
trailing blanks. None of that changes what a file says.
"""

import codecs
import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from mmengine import fileio

# Registers the file backend that fileio reads addresses by.
from clouds_mmseg.utils import remote  # noqa: F401
from clouds_mmseg.utils.errors import UserError

# UTF-32 is left out: nobody's editor writes it, and its mark begins like
# that of UTF-16.
_MARKS = {
    codecs.BOM_UTF8: 'utf-8-sig',
    codecs.BOM_UTF16_LE: 'utf-16',
    codecs.BOM_UTF16_BE: 'utf-16',
}
# How a path begins on a drive of Windows, or the first part of an address.
_DRIVE = re.compile('[A-Za-z]:|.*:$')


def decode_text(payload: bytes, what: str) -> str:
    """Decode a file that was written by hand.

    Args:
        payload: The file: UTF-8, or UTF-16 with its byte order mark.
        what: What the file is and its path, for the message.

    Returns:
        Without byte order mark, lines ended by ``'\\n'``.

    Raises:
        UserError: It is in another encoding, or not text.
    """
    encoding = next(
        (name for mark, name in _MARKS.items() if payload.startswith(mark)),
        'utf-8',
    )
    try:
        text = payload.decode(encoding)
    except UnicodeDecodeError as error:
        line = payload[: error.start].count(b'\n') + 1
        raise UserError(
            f'{what} is not UTF-8: line {line} has the byte '
            f'0x{payload[error.start]:02x}. Save it as UTF-8.'
        ) from error
    return text.replace('\r\n', '\n').replace('\r', '\n')


def read_text(
    path: str | Path, what: str, backend_args: dict | None = None
) -> str:
    """Read a text file; see :func:`decode_text`.

    Args:
        path: The file.
        what: What it is, for the message: ``'the skip list'``.
        backend_args: Of mmengine's file backend.

    Raises:
        UserError: It cannot be read, or is not text.
    """
    try:
        payload = fileio.get(str(path), backend_args=backend_args)
    except OSError as error:
        raise UserError(
            f'{what} {path} cannot be read: {error.strerror or error}'
        ) from error
    return decode_text(payload, f'{what} {path}')


def numbered_lines(lines: Iterable[str], what: str) -> list[tuple[int, str]]:
    """Number the lines that say something, from 1.

    Args:
        lines: Of a text.
        what: What the text is, for the message.

    Returns:
        Number and text of each line, without surrounding blanks; blank lines
        are left out.

    Raises:
        UserError: A line has a control character: no text file has one.
    """
    kept = []
    for number, line in enumerate(lines, 1):
        line = line.strip()
        bad = next((c for c in line if ord(c) < 32 and c != '\t'), None)
        if bad is not None:
            raise UserError(
                f'line {number} of {what} has the control character {bad!r}: '
                'this is not a text file'
            )
        if line:
            kept.append((number, line))
    return kept


def read_lines(
    path: str | Path, what: str, backend_args: dict | None = None
) -> list[tuple[int, str]]:
    """Read the lines of a text file that say something.

    Args:
        path: The file.
        what: What it is, for the message.
        backend_args: Of mmengine's file backend.

    Returns:
        See :func:`numbered_lines`.

    Raises:
        UserError: It cannot be read, or is not text.
    """
    text = read_text(path, what, backend_args)
    return numbered_lines(text.split('\n'), f'{what} {path}')


def inner_path(name: Any) -> str:
    """Check a path that a file states, of a file beside or below it.

    Args:
        name: As stated.

    Returns:
        The same.

    Raises:
        ValueError: It is no text, has control characters, or leads out of its
            folder.
    """
    if not isinstance(name, str):
        raise ValueError(f'{name!r} is no name of a file')
    if any(ord(letter) < 32 for letter in name):
        raise ValueError(f'{name!r} is a name with control characters')
    parts = name.replace('\\', '/').split('/')
    if not parts[0] or _DRIVE.match(parts[0]) or '..' in parts:
        raise ValueError(f'{name!r} leads out of its folder')
    return name


def parse_json(text: str | bytes, **options: Any) -> Any:
    """Parse JSON, whatever it is.

    Args:
        text: Of a file.
        **options: Of :func:`json.loads`.

    Raises:
        ValueError: It is no JSON, or nested too deeply for Python, which
            raises a ``RecursionError``.
    """
    try:
        return json.loads(text, **options)
    except RecursionError as error:
        raise ValueError('its values are nested too deeply') from error


def read_json(path: str | Path, what: str) -> Any:
    """Read a JSON file that was written by hand.

    Args:
        path: The file.
        what: What it is, for the message.

    Raises:
        UserError: It cannot be read, is no JSON, or has a key twice, of
            which Python would take the last one silently.
    """
    text = read_text(path, what)

    def unique(pairs):
        found = dict(pairs)
        if len(found) < len(pairs):
            keys = [key for key, _ in pairs]
            double = next(key for key in keys if keys.count(key) > 1)
            raise UserError(f'{what} {path} has {double!r} twice')
        return found

    try:
        return parse_json(text, object_pairs_hook=unique)
    except json.JSONDecodeError as error:
        raise UserError(
            f'{what} {path} is no JSON: line {error.lineno}, column '
            f'{error.colno}: {error.msg}'
        ) from error
    except UserError:
        raise
    except ValueError as error:
        # An integer of thousands of digits, or depth.
        raise UserError(f'{what} {path} is no JSON: {error}') from error


def split_marked(page: Path, marks: tuple[str, str]) -> tuple[str, str]:
    """Split a page at the part that a command makes.

    Args:
        page: A Markdown file.
        marks: Comments before and after that part.

    Returns:
        The text before the part and the text after it, with the comments.

    Raises:
        UserError: The page does not have each comment once.
    """
    text = page.read_text(encoding='utf-8')
    if not all(text.count(mark) == 1 for mark in marks):
        raise UserError(
            f'{page} has no place for the tables: it needs the lines '
            f'{marks[0]} and {marks[1]}'
        )
    before, after = text.split(marks[0])[0], text.split(marks[1])[1]
    return before + marks[0], marks[1] + after
