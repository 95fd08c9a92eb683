"""Label maps and class statistics of the driving data sets, for generation."""

import os
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.registry import init_default_scope

from clouds_mmseg.datasets.base import DGDataset
from clouds_mmseg.datasets.class_statistics import class_pixels
from clouds_mmseg.datasets.driving import SETS
from clouds_mmseg.datasets.labels import table_digest
from clouds_mmseg.datasets.transforms.loading import LoadSegLabels
from clouds_mmseg.generate.conditions import LabelSources
from clouds_mmseg.utils.errors import UserError
from clouds_mmseg.utils.text_files import parse_json


def open_labelled(
    name: str, root: str | None = None, split: str | None = None
) -> DGDataset:
    """Open a data set for its labels.

    Args:
        name: One of ``datasets.driving.SETS``.
        root: Its folder, by default ``data/NAME``.
        split: Default ``train`` where the layout has splits.

    Raises:
        UserError: There is no such set, or it has no labels.
        DataError: The folder or its labels are missing.
    """
    if name not in SETS:
        raise UserError(
            f'there is no data set {name!r}; those known are {", ".join(SETS)}'
        )
    kind = SETS[name]
    init_default_scope('mmseg')
    options: dict[str, Any] = {}
    if any('{split}' in folder for folder in kind.PREFIX.values()):
        options['split'] = split or 'train'
    elif split:
        options['split'] = split
    dataset = kind(data_root=root or f'data/{name}', pipeline=[], **options)
    dataset.full_init()
    if not dataset.has_labels:
        raise UserError(f'the data set {name} ({split}) has no labels')
    return dataset


def dataset_sources(
    name: str, root: str | None = None, split: str | None = None
) -> LabelSources:
    """Return images and label maps of a data set as it was published.

    Args:
        name, root, split: See :func:`open_labelled`.

    Returns:
        Named by the paths of the images below their folder, so that
        ``DiffusionAugment`` finds what is made from them.
    """
    dataset = open_labelled(name, root, split)
    folder = dataset.data_prefix['img_path']
    images, labels = [], {}
    for index in range(len(dataset)):
        info = dataset.get_data_info(index)
        below = os.path.relpath(info['img_path'], folder)
        below = below.replace(os.sep, '/')
        images.append((below, info['img_path']))
        labels[below] = info['seg_map_path']
    table, channel = dataset.class_table(), dataset.LABEL_CHANNEL
    load = LoadSegLabels()

    def read(path: str) -> np.ndarray:
        sample = dict(
            seg_map_path=path, label_table=table, label_channel=channel
        )
        return load(sample)['gt_seg_map']

    return LabelSources(
        root=folder,
        images=sorted(images),
        labels=labels,
        read=read,
        classes=tuple(dataset.metainfo['classes']),
        meaning=f'{name}, {table_digest(table, channel)}',
    )


def dataset_pixels(source: str, root: str | None = None) -> dict[str, int]:
    """Return how many pixels of each class a source has.

    Args:
        source: Name of a data set, whose statistics are read from beside the
            data or counted and kept there; or a JSON file class -> pixels.
        root: Folder of the data set, by default ``data/NAME``.

    Raises:
        UserError: It is neither, or the file is no such table.
    """
    if source in SETS:
        dataset = open_labelled(source, root)
        counts = class_pixels(dataset).sum(axis=0)
        names = dataset.metainfo['classes']
        return {n: int(c) for n, c in zip(names, counts, strict=True)}
    path = Path(source).expanduser()
    if not path.is_file():
        raise UserError(
            f'{source} is neither a data set ({", ".join(SETS)}) nor a JSON '
            'file class -> pixels'
        )
    try:
        table = parse_json(path.read_text(encoding='utf-8'))
        fine = all(type(v) is int and v >= 0 for v in table.values())
    except (OSError, ValueError, AttributeError):
        fine = False
    if not fine:
        raise UserError(
            f'{source} must be JSON, class name -> number of pixels, such as '
            '{"road": 123456, "train": 78}'
        )
    return table
