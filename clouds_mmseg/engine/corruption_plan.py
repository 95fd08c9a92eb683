"""Which corrupted images are wanted, and which of them are missing."""

import hashlib
import json
from pathlib import Path

from clouds_mmseg.utils.bank_manifest import sha256_of
from clouds_mmseg.utils.errors import UserError

_SUFFIXES = ('.png', '.jpg', '.jpeg', '.bmp', '.webp')


def list_images(source):
    """List the images below a folder.

    Args:
        source (Path): The folder.

    Returns:
        list[str]: Paths below it, sorted.

    Raises:
        UserError: There is no such folder, it has no image, or two images
            differ in their suffix alone.
    """
    if not source.is_dir():
        raise UserError(
            f'{source}: there is no such folder; name the folder of the '
            'images, for example data/cityscapes/leftImg8bit/val'
        )
    found = sorted(
        path.relative_to(source).as_posix()
        for path in source.rglob('*')
        if path.suffix.lower() in _SUFFIXES and not path.name.startswith('.')
    )
    if not found:
        raise UserError(f'{source} holds no image ({", ".join(_SUFFIXES)})')
    stems = {}
    for name in found:
        other = stems.setdefault(str(Path(name).with_suffix('')), name)
        if other != name:
            raise UserError(
                f'{source} holds {other} and {name}, which would become the '
                'same PNG file; remove one of them'
            )
    return found


def digest_images(source, names):
    """Hash names and sizes of images.

    Args:
        source (Path): Their folder.
        names (Sequence[str]): Paths below it.

    Returns:
        str: 64 hexadecimal digits.
    """
    sizes = [[name, (source / name).stat().st_size] for name in names]
    return hashlib.sha256(json.dumps(sizes).encode()).hexdigest()


def missing_images(out, names, corruptions, severities, entries, verify):
    """List what a set lacks.

    Args:
        out (Path): The set.
        names (Sequence[str]): Its images.
        corruptions (Sequence[str]): That are wanted.
        severities (Sequence[int]): That are wanted.
        entries (dict[str, dict]): What the manifest has.
        verify (bool): Compare hashes, not sizes alone.

    Returns:
        list[tuple]: (name, corruption, severities) of what is missing.
    """
    plan = []
    for name in names:
        for corruption in corruptions:
            missing = tuple(
                severity
                for severity in severities
                if not _is_whole(
                    out, target(name, corruption, severity), entries, verify
                )
            )
            if missing:
                plan.append((name, corruption, missing))
    return plan


def _is_whole(out, file, entries, verify):
    entry = entries.get(file)
    if entry is None:
        return False
    try:
        whole = (out / file).stat().st_size == entry['bytes']
    except OSError:
        return False
    return whole and (not verify or sha256_of(out / file) == entry['sha256'])


def target(name, corruption, severity):
    """Return the path of a corrupted image below its set."""
    return f'{corruption}/{severity}/{Path(name).with_suffix(".png")}'


def targets(names, corruptions, severities):
    """Yield the paths of all corrupted images below their set."""
    for name in names:
        for corruption in corruptions:
            for severity in severities:
                yield target(name, corruption, severity)
