"""The benchmarks that can be verified by their name, split by split."""

import os
from dataclasses import dataclass, field

from mmseg.registry import DATASETS

from clouds_mmseg.datasets.acdc import CONDITIONS
from clouds_mmseg.datasets.errors import DataError
from clouds_mmseg.datasets.toycity.manifest import MANIFEST, read_manifest
from clouds_mmseg.datasets.verify.run import Task


@dataclass(frozen=True)
class Split:
    """One part of a benchmark.

    Attributes:
        name (str): For people.
        config (dict): Of the dataset, without ``data_root``.
        images (int | None): Number of images of the official release.
        training (bool): Whether it is for training.
        below (str): Folder below the root that is its ``data_root``.
        count_as (str): Its name in the manifest of a prepared folder.
    """

    name: str
    config: dict = field(hash=False)
    images: int = None
    training: bool = False
    below: str = ''
    count_as: str = ''


def _images(folder, kind):
    """A split whose labels are not published."""
    return dict(type=kind, data_prefix=dict(img_path=folder))


def _cityscapes():
    kind = 'CityscapesDGDataset'
    return [
        Split('train', dict(type=kind, split='train'), 2975, True),
        Split('val', dict(type=kind, split='val'), 500),
        Split('test', _images('leftImg8bit/test', kind), 1525),
    ]


def _bdd100k():
    kind = 'BDD100KDGDataset'
    return [
        Split('train', dict(type=kind, split='train'), 7000, True),
        Split('val', dict(type=kind, split='val'), 1000),
        Split('test', _images('images/10k/test', kind), 2000),
    ]


def _mapillary():
    kind = 'MapillaryDGDataset'
    return [
        Split('training', dict(type=kind, split='training'), 18000, True),
        Split('validation', dict(type=kind, split='validation'), 2000),
        Split('testing', _images('testing/images', kind), 5000),
    ]


def _acdc():
    kind, splits = 'ACDCDataset', []
    for name in CONDITIONS:
        one = dict(type=kind, condition=name)
        val = 106 if name == 'night' else 100
        folder = f'rgb_anon/{name}/test'
        test = dict(one, data_prefix=dict(img_path=folder))
        splits += [
            Split(f'{name} train', dict(one, split='train'), 400, True),
            Split(f'{name} val', dict(one, split='val'), val),
            Split(f'{name} test', test, 500),
        ]
    return splits


def _toycity():
    gta5, acdc = 'GTA5Dataset', 'ACDCDataset'
    splits = [
        Split('source', dict(type=gta5), None, True, 'source'),
        Split('source_val', dict(type=gta5), None, False, 'source_val'),
        Split('clear', dict(type='CityscapesDGDataset'), below='clear'),
    ]
    return splits + [
        Split(name, dict(type=acdc, condition=name), below='acdc')
        for name in CONDITIONS
    ]


# Numbers of images: docs of the releases; see the classes for the sources.
SETS = {
    'gta5': [Split('', dict(type='GTA5Dataset'), 24966, True)],
    'synthia': [Split('', dict(type='SYNTHIADataset'), 9400, True)],
    'cityscapes': _cityscapes(),
    'bdd100k': _bdd100k(),
    'mapillary': _mapillary(),
    'acdc': _acdc(),
    'toycity': _toycity(),
}


def named_tasks(name, root):
    """The datasets of a benchmark that are on this disk.

    Args:
        name (str): A key of :data:`SETS`.
        root (str): Folder of the benchmark.

    Returns:
        list[Task]: One for each split whose image folder exists.

    Raises:
        DataError: The name is unknown, the folder does not exist or holds
            none of the splits.
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
    counts = _toycity_counts(root) if name == 'toycity' else {}
    tasks, first = [], None
    for split in SETS[name]:
        dataset = DATASETS.build(
            dict(
                split.config,
                data_root=os.path.join(root, split.below),
                expected=counts.get(split.name, split.images),
                lazy_init=True,
                pipeline=[],
            )
        )
        # Not `or`: asking for its length opens it.
        first = dataset if first is None else first
        if os.path.isdir(dataset.data_prefix['img_path']):
            title = f'{name} {split.name}'.strip()
            tasks.append(Task(title, dataset, split.training))
    if not tasks:
        # Opening it says which files are expected where.
        first.all_samples()
    return tasks


def _toycity_counts(root):
    manifest = read_manifest(os.path.join(root, MANIFEST))
    return manifest['images'] if manifest else {}
