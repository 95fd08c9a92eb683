"""The file that says what a prepared folder holds."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

from clouds_mmseg.datasets.errors import DataError
from clouds_mmseg.utils.atomic import atomic_path

MANIFEST = 'clouds_dataset.json'
FORMAT = 1
MADE_BY = 'prepare_dataset'

# Every label file of a prepared folder ends so and holds train ids.
PREPARED_SUFFIX = '_labelTrainIds.png'


@dataclass(kw_only=True)
class Manifest:
    """What a prepared folder holds.

    Attributes:
        name (str): The set, for example ``gta5``.
        splits (dict[str, int]): Split -> number of images.
        resize_short (int, optional): Short edge of the copies in pixels;
            None where the files are as published.
        recode (str, optional): Format of the copies of the images; None
            where they are as published.
        link (bool): Whether files are links to where they were.
        label_source (str): What the labels were made from: ``train_ids``,
            ``label_ids``, ``polygons``, ``panoptic`` or a config's name.
        complete (bool): False while files are still being made.
        left_out (list[str]): Images that were left out as unusable.
        made_by (str): The tool.
        format (int): Of this file.
    """

    name: str
    splits: dict
    resize_short: int | None = None
    recode: str | None = None
    link: bool = False
    label_source: str = 'train_ids'
    complete: bool = True
    left_out: list = field(default_factory=list)
    made_by: str = MADE_BY
    format: int = FORMAT


def write_manifest(root, manifest):
    """Write the manifest of a folder, atomically.

    Args:
        root (str | Path): The prepared folder.
        manifest (Manifest): Its content.
    """
    with atomic_path(Path(root) / MANIFEST) as temporary:
        temporary.write_text(
            json.dumps(asdict(manifest), indent=1, ensure_ascii=False) + '\n',
            encoding='utf-8',
        )


def read_manifest(root):
    """Read the manifest of a folder.

    Args:
        root (str | Path): The folder.

    Returns:
        Manifest | None: None where there is none, as in folders that
        were unpacked by hand.

    Raises:
        DataError: The file is damaged or of a newer version.
    """
    path = Path(root) / MANIFEST
    try:
        text = path.read_text(encoding='utf-8')
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        content = json.loads(text)
        known = Manifest.__dataclass_fields__
        manifest = Manifest(**{k: v for k, v in content.items() if k in known})
    except (ValueError, TypeError, AttributeError) as error:
        raise DataError(
            f'{path} is damaged ({error}). Delete it and run '
            'tools/prepare_dataset.py again with the same options: files '
            'that are there are kept.'
        ) from error
    if manifest.format != FORMAT:
        raise DataError(
            f'{path} has format {manifest.format}, this version reads '
            f'{FORMAT}. Prepare the folder with this version.'
        )
    return manifest
