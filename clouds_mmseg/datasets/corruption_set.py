"""The files of a set of corrupted images, as its maker and readers see them.

A set is a folder::

    corruptions.json   what the images depend on, and which domains are whole
    manifest.jsonl     one line an image
    <corruption>/<severity>/...   PNG files, laid out as their sources
    contact_sheet.png

The idea is that of a bank of generated images
(:mod:`clouds_mmseg.utils.bank_manifest`).
"""

import json
from pathlib import Path

from clouds_mmseg.datasets.errors import DataError
from clouds_mmseg.utils.corruptions import domain_of

SET_FILE = 'corruptions.json'
MANIFEST_FILE = 'manifest.jsonl'
FORMAT = 1
_COMMAND = 'python tools/make_corruptions.py IMAGE_FOLDER'


def read_set(folder):
    """Read what a set says about itself.

    Args:
        folder (str | Path): The set.

    Returns:
        dict: ``recipe`` (``seed``, ``images``, ``digest`` of their names),
        ``complete`` (domains that are whole) and ``info`` (for people).

    Raises:
        DataError: There is no set, or it is damaged.
    """
    path = Path(folder) / SET_FILE
    try:
        content = json.loads(path.read_text(encoding='utf-8'))
        if content['format'] == FORMAT:
            return content
        problem = f'has format {content["format"]!r}, not {FORMAT}'
    except FileNotFoundError:
        problem = 'does not exist'
    except (OSError, ValueError, KeyError, TypeError) as error:
        problem = f'cannot be read ({type(error).__name__}: {error})'
    raise DataError(
        f'corrupted images: {path} {problem}. Make the set with: {_COMMAND} '
        f'{folder}'
    )


def read_entries(folder):
    """Read the manifest of a set, finished or not.

    Args:
        folder (str | Path): The set.

    Returns:
        dict[str, dict]: File below the folder -> ``source``, ``seed``,
        ``bytes``, ``sha256``. Lines that a kill cut short are passed over.
    """
    entries = {}
    try:
        lines = (Path(folder) / MANIFEST_FILE).read_bytes().split(b'\n')
    except FileNotFoundError:
        return entries
    for line in lines:
        try:
            entry = json.loads(line)
            entries[entry['file']] = entry
        except (ValueError, KeyError, TypeError):
            continue
    return entries


def require_domains(folder, corruptions, severities, seed):
    """Check that a set has what is asked for.

    Args:
        folder (str | Path): The set.
        corruptions (Sequence[str]): Names.
        severities (Sequence[int]): 1..5.
        seed (int): That the images must have been made with.

    Returns:
        dict: See :func:`read_set`.

    Raises:
        DataError: A domain is not whole, or the seed is another one.
    """
    found = read_set(folder)
    wanted = [domain_of(c, s) for c in corruptions for s in severities]
    missing = [d for d in wanted if d not in found['complete']]
    if missing:
        more = f' and {len(missing) - 5} more' if len(missing) > 5 else ''
        raise DataError(
            f'the corrupted images in {folder} lack {", ".join(missing[:5])}'
            f'{more}. Run the command that made them again, it continues: '
            f'{_COMMAND} {folder}'
        )
    made = found['recipe']['seed']
    if made != seed:
        raise DataError(
            f'the corrupted images in {folder} were made with seed {made}, '
            f'but seed={seed} is asked for; give that seed, or make another '
            'set'
        )
    return found
