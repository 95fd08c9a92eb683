"""Pixels of each class, counted once."""

import json
import logging

import numpy as np
import pytest
from mmengine.logging import MMLogger

from clouds_mmseg.datasets import (
    DataError,
    FolderDataset,
    GTA5Dataset,
    class_statistics,
)
from clouds_mmseg.datasets.class_statistics import class_pixels
from clouds_mmseg.utils import remote


@pytest.fixture
def counted(monkeypatch):
    """Names of the labels that were read, in lists, one for each time."""
    calls = []
    plain = class_statistics._count

    def count(dataset, root, labels, workers):
        calls.append(labels)
        return plain(dataset, root, labels, workers)

    monkeypatch.setattr(class_statistics, '_count', count)
    return calls


@pytest.fixture
def dataset(pairs, files):
    files.label(pairs / 'labels/00001.png', np.full(files.shape, 26))
    return GTA5Dataset(data_root=str(pairs))


def test_counts_are_in_the_order_of_the_dataset(dataset):
    counts = class_pixels(dataset, workers=1)
    assert counts.shape == (3, 19)
    # 7 road, 8 sidewalk, 26 car, 0 ignored.
    assert counts[:, [0, 1, 13]].tolist() == [
        [60, 60, 60],
        [0, 0, 240],
        [60, 60, 60],
    ]
    assert counts.sum() == 180 + 240 + 180


def test_only_what_changed_is_counted_again(dataset, counted, pairs, files):
    first = class_pixels(dataset, workers=1)
    assert (pairs / 'clouds_statistics.json').is_file()
    np.testing.assert_array_equal(class_pixels(dataset, workers=1), first)
    assert [len(labels) for labels in counted] == [3]
    files.label(pairs / 'labels/00002.png', np.full(files.shape, 8))
    second = class_pixels(dataset, workers=1)
    assert counted[1:] == [['labels/00002.png']]
    assert second[2].tolist() == [0, 240] + [0] * 17
    np.testing.assert_array_equal(second[:2], first[:2])


def test_verification_counts_for_it(dataset, counted, check):
    check()
    class_pixels(dataset, workers=1)
    assert counted == []


def test_statistics_of_other_classes_are_kept_apart(dataset, counted, pairs):
    class_pixels(dataset, workers=1)
    some = GTA5Dataset(
        data_root=str(pairs), metainfo=dict(classes=('car', 'road'))
    )
    assert class_pixels(some, workers=1).tolist() == [
        [60, 60],
        [240, 0],
        [60, 60],
    ]
    own = FolderDataset(
        data_root=str(pairs),
        metainfo=dict(classes=['all']),
        ids={7: 0, 8: 0, 26: 0},
        ignored=[0],
        domain='x',
    )
    assert class_pixels(own, workers=1).tolist() == [[180], [240], [180]]
    class_pixels(dataset, workers=1)
    assert [len(labels) for labels in counted] == [3, 3, 3]


def test_skipped_images_are_left_out(dataset, pairs):
    class_pixels(dataset, workers=1)
    fewer = GTA5Dataset(data_root=str(pairs), skip=['00001'])
    assert class_pixels(fewer, workers=1)[:, 13].tolist() == [60, 60]


def test_a_file_that_is_nothing_is_made_anew(dataset, pairs, counted):
    path = pairs / 'clouds_statistics.json'
    for text in ('', '[]', '{"format": 0, "sets": {}}'):
        path.write_text(text)
        class_pixels(dataset, workers=1)
        assert json.loads(path.read_text())['sets']
    assert len(counted) == 3


def test_bad_labels_are_named(dataset, pairs, truncate):
    for number in range(3):
        truncate(pairs / f'labels/{number:05d}.png')
    with pytest.raises(DataError) as caught:
        class_pixels(dataset, workers=1)
    text = str(caught.value)
    assert '3 of 3 labels' in text and 'labels/00002.png is truncated' in text
    assert 'clouds verify --fix' in text


def test_a_folder_that_cannot_be_written_to(dataset, monkeypatch, caplog):
    def refuse(path):
        raise PermissionError(13, 'Permission denied', str(path))

    monkeypatch.setattr(remote, 'atomic_path', refuse)
    logger = MMLogger.get_current_instance()
    logger.addHandler(caplog.handler)
    with caplog.at_level(logging.INFO):
        assert class_pixels(dataset, workers=1).sum() == 600
    logger.removeHandler(caplog.handler)
    assert 'not kept, and counted again next time' in caplog.text
