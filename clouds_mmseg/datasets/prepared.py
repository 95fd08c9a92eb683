"""Manifest of the folders written by ``tools/prepare_dataset.py``."""

import json
import logging
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path

from mmengine import fileio
from mmengine.logging import print_log

from clouds_mmseg.utils.atomic import atomic_path
from clouds_mmseg.utils.errors import DataError
from clouds_mmseg.utils.remote import is_address
from clouds_mmseg.utils.text_files import parse_json

MANIFEST = 'clouds_dataset.json'
FORMAT = 1
MADE_BY = 'prepare_dataset'

# The format of copies whose pixels differ from the published ones.
LOSSY = 'jpg'

# Suffix of the label files of a prepared folder, which hold train ids.
PREPARED_SUFFIX = '_labelTrainIds.png'


@dataclass(kw_only=True)
class Manifest:
    """Content of a prepared folder.

    Attributes:
        name: The set, for example ``gta5``.
        splits: Split -> number of images.
        resize_short: Short edge of the copies in pixels; None where the files
            are as published.
        recode: Format of the copies of the images; None where they are as
            published.
        link: Whether files are links to the source files.
        label_source: What the labels were made from: ``train_ids``,
            ``label_ids``, ``polygons``, ``panoptic`` or a config's name.
        complete: False while files are being written.
        left_out: Images that were left out as unusable.
        made_by: Name of the tool.
        format: Version of this file.
    """

    name: str
    splits: dict[str, int]
    resize_short: int | None = None
    recode: str | None = None
    link: bool = False
    label_source: str = 'train_ids'
    complete: bool = True
    left_out: list[str] = field(default_factory=list)
    made_by: str = MADE_BY
    format: int = FORMAT


def write_manifest(root: str | Path, manifest: Manifest) -> None:
    """Write the manifest of a folder, atomically.

    Args:
        root: The prepared folder.
        manifest: Its content.
    """
    with atomic_path(Path(root) / MANIFEST) as temporary:
        temporary.write_text(
            json.dumps(asdict(manifest), indent=1, ensure_ascii=False) + '\n',
            encoding='utf-8',
        )


def read_manifest(root: str | Path) -> Manifest | None:
    """Read the manifest of a folder.

    Args:
        root: The folder, or its address.

    Returns:
        None where there is no manifest, as in folders unpacked by hand.

    Raises:
        DataError: The file is damaged or of a newer version.
        RemoteError: The store cannot be read.
    """
    path = os.path.join(root, MANIFEST)
    if '://' in path and not is_address(path):
        # Of mmengine's other file backends.
        return None
    try:
        payload = fileio.get(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        content = parse_json(payload)
        known = Manifest.__dataclass_fields__
        manifest = Manifest(**{k: v for k, v in content.items() if k in known})
    except (ValueError, TypeError, AttributeError) as error:
        raise DataError(
            f'{path} is damaged ({error}). Delete it and run '
            'clouds prepare again with the same options: files '
            'that are there are kept.'
        ) from error
    if manifest.format != FORMAT:
        raise DataError(
            f'{path} has format {manifest.format}, this version reads '
            f'{FORMAT}. Prepare the folder with this version.'
        )
    return manifest


def recoded(path: str, kind: str | None) -> str:
    """Return the name of the recoded copy of an image.

    Args:
        path: The image, or its suffix.
        kind: One of :data:`RECODES`; None: as published.
    """
    return f'{path.rpartition(".")[0]}.{kind}' if kind else path


def prepared_suffix(published: str) -> str:
    """Return the suffix of the label files of a prepared folder.

    Args:
        published: Of the published label files. It stays if it is one of
            files of train ids.
    """
    kept = published.endswith(PREPARED_SUFFIX)
    return published if kept else PREPARED_SUFFIX


def find_manifest(data_root: str | None, name: str | None) -> Manifest | None:
    """Read the manifest of a data root, if it is a prepared folder.

    Args:
        data_root: The folder.
        name: Of the expected set. None: the dataset class reads no prepared
            folders.

    Returns:
        None if the folder was not written by ``tools/prepare_dataset.py``.

    Raises:
        DataError: It holds another set, or is not complete.
    """
    # Generated image sets are never prepared folders.
    if name is None or data_root is None:
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
            f'clouds prepare {name} again with the same options, '
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
    if manifest.recode == LOSSY:
        print_log(
            f'{data_root} is a copy as JPEG of quality 95: train on it, but '
            'numbers measured on it are not those of the published images',
            logger='current',
            level=logging.WARNING,
        )
    return manifest
