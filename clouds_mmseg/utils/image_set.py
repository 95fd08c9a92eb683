"""Files of a generated image set, shared by its writer and its readers.

"Image bank" is short for such a set; options and configs use that name.
"""

import hashlib
import logging
import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from mmengine import fileio
from mmengine.logging import print_log

from clouds_mmseg.utils.errors import UserError
from clouds_mmseg.utils.text_files import inner_path, parse_json

BANK_FILE = 'bank.json'
MANIFEST_FILE = 'manifest.jsonl'
SHARD_FOLDER = 'shards'
IMAGE_FOLDER = 'images'
LABEL_FOLDER = 'labels_for_evaluation'
# Of label maps that the images were made from.
TRAINING_FOLDER = 'labels'
# What clouds filter writes: settings, measures, labels.
FILTER_FOLDER = 'filter'
FILTER_FILE = f'{FILTER_FOLDER}/settings.json'
FORMAT = 1
_REQUIRED = dict(
    index=int, file=str, prompt=str, seed=int, bytes=int, sha256=str
)
_PARTS = dict(num=int, recipe=dict, info=dict)
# Of an entry that has them; all are below the folder of the set.
_FILES = ('file', 'label', 'evaluation_label')
_COMMAND = 'clouds generate --prompts FILE --num N --out'


class BankError(UserError):
    """An image bank is missing, damaged, or not the one that is requested."""


def sha256_of(path: str | Path) -> str:
    """Return the SHA-256 of a file's bytes, in hexadecimal."""
    digest = hashlib.sha256()
    with open(path, 'rb') as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def read_bank(root: str | Path) -> dict:
    """Read the description of an image bank.

    Args:
        root: Folder of the image bank.

    Returns:
        ``format``, ``num`` (images requested), ``recipe`` (what the
        images depend on) and ``info`` (versions and paths, for people).

    Raises:
        BankError: There is no bank, or it is damaged or of another format.
    """
    path = os.path.join(root, BANK_FILE)
    try:
        bank = parse_json(fileio.get(path))
    except FileNotFoundError as error:
        there = 'holds no' if fileio.isdir(root) else 'does not exist, so no'
        raise BankError(
            f'the image bank {root} {there} {BANK_FILE}. Make the image bank '
            f'with: {_COMMAND} {root}'
        ) from error
    except (OSError, ValueError) as error:
        raise BankError(
            f'{path} cannot be read ({error}). Delete the image bank and make '
            f'it again with: {_COMMAND} {root}'
        ) from error
    found = bank.get('format') if isinstance(bank, dict) else None
    if found != FORMAT:
        raise BankError(
            f'{path} has format {found!r}, this version reads format '
            f'{FORMAT}. Make the image bank again with: {_COMMAND} {root}'
        )
    for key, kind in _PARTS.items():
        if type(bank.get(key)) is not kind:
            raise BankError(
                f'{path}: its {key} is {str(bank.get(key))[:40]!r}, which is '
                f'no {kind.__name__}. Make the image bank again with: '
                f'{_COMMAND} {root}'
            )
    return bank


def read_entries(root: str | Path) -> dict[int, dict]:
    """Read the manifest of an image bank, finished or not.

    A line that a kill cut short is the last of its file and lacks its
    newline; it is passed over.

    Args:
        root: Folder of the image bank.

    Returns:
        Index of the image -> its entry, in ascending order.

    Raises:
        BankError: A line is not an entry.
    """
    entries = {}
    # A rank that finishes writes the manifest before it removes the shards,
    # so a reader that begins with the shards misses nothing.
    shards = os.path.join(root, SHARD_FOLDER)
    names: list[str] = []
    with suppress(FileNotFoundError):
        names += fileio.list_dir_or_file(
            shards, list_dir=False, suffix='.jsonl'
        )
    for path in (
        *(os.path.join(shards, name) for name in sorted(names)),
        os.path.join(root, MANIFEST_FILE),
    ):
        try:
            lines = fileio.get(path).split(b'\n')
        except FileNotFoundError:
            continue
        for number, line in enumerate(lines[:-1], 1):
            entry = _parse(line, path, number)
            # An image may have been made again, to get its label as well.
            if entry['index'] not in entries or 'evaluation_label' in entry:
                entries[entry['index']] = entry
    return dict(sorted(entries.items()))


def read_complete(root: str | Path) -> tuple[dict, dict[int, dict]]:
    """Read an image bank to which no image is being added.

    Args:
        root: Folder of the image bank, or its address.

    Returns:
        As :func:`read_bank` and :func:`read_entries`.

    Raises:
        BankError: Images are missing, or as for these.
    """
    bank, entries = read_bank(root), read_entries(root)
    missing = set(range(bank['num'])) - set(entries)
    if missing or not fileio.isfile(os.path.join(root, MANIFEST_FILE)):
        raise BankError(
            f'the image bank {root} lacks {len(missing)} of {bank["num"]} '
            'images: the command that began it makes the rest; run this one '
            'again then'
        )
    return bank, entries


def used_entries(
    root: str | Path, entries: list[dict] | None = None
) -> list[dict]:
    """Return the entries of the images that a filter has not left out.

    A set that was not filtered is used whole. What is left out is logged.

    Args:
        root: Folder of the image bank.
        entries: All of them, if they were read already: an entry takes 4 KB,
            and of a large set they are not to be held twice.

    Returns:
        As :func:`read_entries`; ``filter`` of an entry says what the filter
        found.

    Raises:
        BankError: See :func:`read_entries`.
    """
    if entries is None:
        entries = list(read_entries(root).values())
    judged = [entry for entry in entries if 'filter' in entry]
    if not judged:
        return entries
    used = [e for e in entries if e.get('filter', {}).get('used', True)]
    print_log(
        f'The filter leaves out {len(entries) - len(used)} of '
        f'{len(entries)} images of the image bank {root} '
        f'(all again: clouds filter {root} --undo)',
        logger='current',
    )
    if len(judged) < len(entries):
        print_log(
            f'{len(entries) - len(judged)} images of the image bank {root} '
            'were made after it was filtered, and are used as they are: run '
            'clouds filter again',
            logger='current',
            level=logging.WARNING,
        )
    return used


def filter_classes(root: str | Path) -> list[str] | None:
    """Return the classes of the labels that a filter wrote.

    Args:
        root: Folder of the image bank.

    Raises:
        BankError: The settings of the filter cannot be read.
    """
    path = os.path.join(root, FILTER_FILE)
    try:
        return parse_json(fileio.get(path))['classes']
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BankError(
            f'{path} cannot be read ({error}): filter the image bank again, '
            f'after clouds filter {root} --undo'
        ) from error


def warn_of_copies(root: str | Path, entries: Iterable[dict]) -> int:
    """Warn if images of an image bank are the same to the last byte.

    A model that passes over seeds or prompts makes such images, and a bank
    of them has less to say than its number of images.

    Args:
        root: Folder of the image bank, for the message.
        entries: Of :func:`read_entries`.

    Returns:
        How many images are copies of an earlier one.
    """
    first, copies = {}, []
    for entry in entries:
        other = first.setdefault(entry['sha256'], entry['file'])
        if other != entry['file']:
            copies.append(f'{entry["file"]} of {other}')
    if copies:
        print_log(
            f'{len(copies)} of the {len(first) + len(copies)} images of the '
            f'image bank {root} are copies of others: {", ".join(copies[:3])}'
            + (', ...' if len(copies) > 3 else ''),
            logger='current',
            level=logging.WARNING,
        )
    return len(copies)


def _parse(line, path, number):
    try:
        entry = parse_json(line)
        missing = [key for key in _REQUIRED if key not in entry]
        if missing:
            raise ValueError(f'it lacks {", ".join(missing)}')
        for key, kind in _REQUIRED.items():
            if type(entry[key]) is not kind:
                raise ValueError(f'its {key} is {entry[key]!r}')
        for key in _FILES:
            if entry.get(key) is not None:
                inner_path(entry[key])
    except (ValueError, TypeError) as error:
        raise BankError(
            f'line {number} of {path} is not an entry of an image bank '
            f'({error}). Delete that line; the command that made the image '
            'bank makes the image again.'
        ) from error
    return entry
