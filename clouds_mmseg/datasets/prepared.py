"""Folders that ``tools/prepare_dataset.py`` has made."""

import logging

from mmengine.logging import print_log

from clouds_mmseg.datasets.errors import DataError
from clouds_mmseg.datasets.prepare.manifest import MANIFEST, read_manifest


def find_manifest(data_root, name):
    """Find out whether a data root is a prepared folder.

    Args:
        data_root (str | None): The folder.
        name (str | None): Of the set that is expected there. None: the
            dataset class reads no prepared folders.

    Returns:
        Manifest | None: What the folder holds; None if it was not made by
        ``tools/prepare_dataset.py``.

    Raises:
        DataError: It holds another set, or is not complete.
    """
    # Remote roots and banks are never prepared folders.
    if name is None or data_root is None or '://' in data_root:
        return None
    manifest = read_manifest(data_root)
    if manifest is None:
        return None
    if manifest.name != name:
        raise DataError(
            f'{data_root} holds {manifest.name} according to its {MANIFEST}, '
            f'but is the data_root of {name}'
        )
    if not manifest.complete:
        raise DataError(
            f'the preparation of {data_root} was interrupted: run '
            f'tools/prepare_dataset.py {name} again with the same options, '
            'it makes what is missing'
        )
    if manifest.resize_short is not None:
        print_log(
            f'{data_root} is a copy with a short edge of '
            f'{manifest.resize_short} pixels, labels too: numbers measured '
            'on it are not those of the published images',
            logger='current',
            level=logging.WARNING,
        )
    return manifest
