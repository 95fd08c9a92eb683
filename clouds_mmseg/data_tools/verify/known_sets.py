"""Splits of the benchmarks, for verification by name."""

import os
from dataclasses import dataclass, field, replace

from mmseg.registry import DATASETS

from clouds_mmseg.data_tools.prepare.sets import NAMES, find_layout
from clouds_mmseg.data_tools.verify.listing import Task
from clouds_mmseg.datasets.driving import CONDITIONS
from clouds_mmseg.toycity.dataset import MANIFEST, read_manifest
from clouds_mmseg.utils.errors import DataError


@dataclass(frozen=True)
class Split:
    """One part of a benchmark.

    Attributes:
        name: As in ``Layout.official``, if that has its number of images.
        config: Of the dataset, without ``data_root``.
        training: Whether it is for training.
        images: Number of images, where ``Layout.official`` does not have it.
        below: Its ``data_root``, relative to the root.
        fallback: ``data_prefix`` to use where the label folder of the config
            does not exist and its own does.
    """

    name: str
    config: dict = field(hash=False)
    training: bool = False
    images: int | None = None
    below: str = ''
    fallback: dict | None = field(default=None, hash=False)


def _one(name, kind, training=False):
    """Return a set with a single split."""
    return [Split(name, dict(type=kind), training)]


def _three(kind, names, test_folder):
    """Return training, validation, and a test split without labels."""
    train, val, test = names
    unlabelled = dict(type=kind, data_prefix=dict(img_path=test_folder))
    return [
        Split(train, dict(type=kind, split=train), True),
        Split(val, dict(type=kind, split=val)),
        Split(test, unlabelled),
    ]


def _mapillary():
    names = ('training', 'validation', 'testing')
    splits = _three('MapillaryDGDataset', names, 'testing/images')
    return [
        # Version 2.0 as downloaded.
        replace(
            split,
            fallback=dict(
                img_path=f'{split.name}/images',
                seg_map_path=f'{split.name}/v1.2/labels',
            ),
        )
        for split in splits
    ]


def _acdc():
    splits = []
    for name in CONDITIONS:
        one = dict(type='ACDCDataset', condition=name)
        val = 106 if name == 'night' else 100
        test = dict(img_path=f'rgb_anon/{name}/test')
        splits += [
            Split(f'{name} train', dict(one, split='train'), True, 400),
            Split(f'{name} val', dict(one, split='val'), False, val),
            Split(f'{name} test', dict(one, data_prefix=test), False, 500),
        ]
    return splits


def _toycity():
    gta5, city = dict(type='GTA5Dataset'), dict(type='CityscapesDGDataset')
    return [
        Split('source', gta5, True, below='source'),
        Split('source_val', gta5, below='source_val'),
        Split('clear', city, below='clear'),
        *(
            Split(n, dict(type='ACDCDataset', condition=n), below='acdc')
            for n in CONDITIONS
        ),
    ]


_USUAL = ('train', 'val', 'test')
SETS = {
    'gta5': _one('train', 'GTA5Dataset', True),
    'synthia': _one('train', 'SYNTHIADataset', True),
    'urbansyn': _one('train', 'UrbanSynDataset', True),
    'cityscapes': _three('CityscapesDGDataset', _USUAL, 'leftImg8bit/test'),
    'bdd100k': _three('BDD100KDGDataset', _USUAL, 'images/10k/test'),
    'mapillary': _mapillary(),
    'acdc': _acdc(),
    'dark_zurich': _one('val', 'DarkZurichDGDataset'),
    'nighttime_driving': _one('test', 'NighttimeDrivingDataset'),
    'foggy_zurich': _one('testv2', 'FoggyZurichDataset'),
    'wilddash2': _one('public', 'WildDash2Dataset'),
    'toycity': _toycity(),
}


def named_tasks(name: str, root: str) -> list[Task]:
    """Build the datasets of a benchmark that exist below a folder.

    Args:
        name: A key of :data:`SETS`.
        root: Folder of the benchmark.

    Returns:
        One task for each split whose image folder exists.

    Raises:
        DataError: The name is unknown, the folder does not exist or holds none
            of the splits.
    """
    if name not in SETS:
        raise DataError(
            f'{name!r} is not a data set with a name: {", ".join(SETS)}.',
            'For your own folders give a config that names them: '
            '--config CONFIG.',
        )
    if not os.path.isdir(root):
        raise DataError(
            f'{root} does not exist (from {os.getcwd()}).',
            f'Give the folder of {name} with --data-root.',
        )
    counts = _official_counts(name, root)
    tasks, first = [], None
    for split in SETS[name]:
        dataset = _build(split, root, split.images or counts.get(split.name))
        # Not `or`: asking for its length opens it.
        first = dataset if first is None else first
        if os.path.isdir(dataset.data_prefix['img_path']):
            tasks.append(Task(f'{name} {split.name}', dataset, split.training))
    if not tasks and first is not None:
        # Raises the error that lists the expected files.
        first.all_samples()
    return tasks


def _build(split, root, images):
    config = dict(
        split.config,
        data_root=os.path.normpath(os.path.join(root, split.below)),
        expected=images,
        lazy_init=True,
        pipeline=[],
    )
    dataset = DATASETS.build(config)
    labels = dataset.data_prefix.get('seg_map_path')
    if split.fallback and labels and not os.path.isdir(labels):
        other = os.path.join(root, split.fallback['seg_map_path'])
        if os.path.isdir(other):
            return DATASETS.build(dict(config, data_prefix=split.fallback))
    return dataset


def _official_counts(name, root):
    """Return split -> images of the release, where the number is known."""
    if name in NAMES:
        return find_layout(name).official
    manifest = read_manifest(os.path.join(root, MANIFEST))
    return manifest['images'] if manifest else {}
