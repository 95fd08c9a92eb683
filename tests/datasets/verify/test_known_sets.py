"""Benchmarks by their names, in the layouts of their releases."""

import json

import pytest

from clouds_mmseg.data_tools.verify import (
    VERIFIED_SETS,
    named_tasks,
    verify,
)
from clouds_mmseg.datasets import DataError

# Name -> split, image, label (or none), how it is written, an id in it.
TREES = {
    'gta5': [('train', 'images/1.png', 'labels/1.png', 'palette', 7)],
    'synthia': [('train', 'RGB/1.png', 'GT/LABELS/1.png', 'synthia', 3)],
    'cityscapes': [
        (
            split,
            f'leftImg8bit/{split}/bonn/b_leftImg8bit.png',
            f'gtFine/{split}/bonn/b_gtFine_labelTrainIds.png',
            'grey',
            0,
        )
        for split in ('train', 'val')
    ]
    + [('test', 'leftImg8bit/test/b/b_leftImg8bit.png', None, None, None)],
    'bdd100k': [
        (
            'val',
            'images/10k/val/a.jpg',
            'labels/sem_seg/masks/val/a.png',
            'grey',
            0,
        )
    ],
    'mapillary': [
        (
            'training',
            'training/images/a.jpg',
            'training/labels/a.png',
            'palette',
            13,
        ),
        # As in a download of version 2.0.
        (
            'validation',
            'validation/images/b.jpg',
            'validation/v1.2/labels/b.png',
            'palette',
            13,
        ),
    ],
    'acdc': [
        (
            'night val',
            'rgb_anon/night/val/s/1_rgb_anon.png',
            'gt/night/val/s/1_gt_labelTrainIds.png',
            'grey',
            0,
        ),
        ('rain test', 'rgb_anon/rain/test/s/1_rgb_anon.png', None, None, 0),
    ],
}
COUNTS = {
    'gta5 train': 24966,
    'synthia train': 9400,
    'cityscapes train': 2975,
    'cityscapes val': 500,
    'cityscapes test': 1525,
    'bdd100k val': 1000,
    'mapillary training': 18000,
    'mapillary validation': 2000,
    'acdc night val': 106,
    'acdc rain test': 500,
}


@pytest.mark.parametrize('name', TREES)
def test_the_splits_that_are_there(tmp_path, files, name):
    root = tmp_path / name
    for number, (_, image, label, kind, value) in enumerate(TREES[name]):
        files.image(root / image, seed=number)
        if label:
            files.label(root / label, files.label_of([value]), kind)
    tasks = named_tasks(name, str(root))
    assert [t.name for t in tasks] == [f'{name} {t[0]}' for t in TREES[name]]
    assert [t.training for t in tasks] == [
        t[0].startswith('train') for t in TREES[name]
    ]
    reports = verify(tasks, workers=1)
    for report, (_, _, label, _, _) in zip(reports, TREES[name], strict=True):
        # The numbers of the releases stand in the design, independently.
        assert report.expected == COUNTS[report.name]
        assert [f.kind for f in report.errors] == ['count']
        assert report.pixels == ([240] + [0] * 18 if label else [])


def test_toycity_counts_by_its_manifest(tmp_path, files):
    names = ('source', 'source_val', 'clear', 'fog', 'night', 'rain', 'snow')
    counts = dict.fromkeys(names, 1) | dict(source=2)
    (tmp_path / 'toycity.json').write_text(json.dumps(dict(images=counts)))
    for number in range(2):
        files.image(tmp_path / f'source/images/{number}.png', seed=number)
        files.label(
            tmp_path / f'source/labels/{number}.png', files.label_of([7])
        )
    files.image(tmp_path / 'acdc/rgb_anon/fog/val/s/1_rgb_anon.png', seed=2)
    files.label(
        tmp_path / 'acdc/gt/fog/val/s/1_gt_labelTrainIds.png',
        files.label_of([7]),
    )
    reports = verify(named_tasks('toycity', str(tmp_path)), workers=1)
    assert [(r.name, r.images) for r in reports] == [
        ('toycity source', 2),
        ('toycity fog', 1),
    ]
    assert not any(r.findings for r in reports)
    (tmp_path / 'toycity.json').unlink()
    tasks = named_tasks('toycity', str(tmp_path))
    assert [t.dataset.expected for t in tasks] == [None, None]


def test_a_prepared_folder(tmp_path, files):
    """Labels are train ids, and images that were left out are no loss."""
    from clouds_mmseg.datasets.prepared import Manifest, write_manifest

    files.image(tmp_path / 'images/1.png')
    files.label(
        tmp_path / 'labels/1_labelTrainIds.png', files.label_of([0, 18])
    )
    out = ['images/2.png', 'images/3.png']
    write_manifest(
        tmp_path, Manifest(name='gta5', splits=dict(train=1), left_out=out)
    )
    (task,) = named_tasks('gta5', str(tmp_path))
    task.dataset.expected = 3
    (report,) = verify([task], workers=1)
    assert report.findings == [] and report.set_aside == 2
    assert report.pixels[18] == 120


def test_every_name_is_a_dataset_of_the_package(tmp_path):
    for name in VERIFIED_SETS:
        root = tmp_path / name
        root.mkdir()
        with pytest.raises(DataError, match='Expected files'):
            named_tasks(name, str(root))


def test_mistakes(tmp_path):
    with pytest.raises(DataError, match="'gta' is not .* gta5, .*--config"):
        named_tasks('gta', 'data/gta')
    with pytest.raises(DataError, match='data/none does not exist .*--data-r'):
        named_tasks('gta5', 'data/none')
