"""Pipelines that would leave settings of a dataset undone."""

import pytest

from clouds_mmseg.datasets import DGDataset, FolderDataset, GTA5Dataset
from clouds_mmseg.utils.errors import UserError

IMAGE = dict(type='LoadSegImage')
STOCK = dict(type='LoadAnnotations')
OURS = dict(type='LoadSegLabels')


def make(root, **options):
    options = dict(metainfo=dict(classes=['a', 'b'])) | options
    return FolderDataset(data_root=str(root), domain='mine', **options)


@pytest.mark.parametrize(
    'options',
    [
        dict(names=dict(b=0, a=1)),
        dict(names=dict(a=0, b=1, c=2), label_map=dict(a=['a', 'c'])),
        dict(ids={7: 0, 8: 1}),
        dict(ignored=[11]),
    ],
)
@pytest.mark.parametrize(
    'steps',
    [
        [IMAGE, STOCK],
        [IMAGE, dict(type='RandomApply', transforms=[STOCK], prob=1.0)],
        [IMAGE, dict(type='RandomChoice', transforms=[[OURS], [STOCK]])],
    ],
)
def test_a_table_that_nobody_applies(pairs, options, steps):
    with pytest.raises(UserError, match="LoadAnnotations.*'LoadSegLabels'"):
        make(pairs, pipeline=steps, **options)
    make(pairs, pipeline=[IMAGE, OURS], **options)


def test_ids_that_are_the_classes_may_be_read_by_anybody(pairs):
    make(pairs, pipeline=[IMAGE, STOCK])
    with pytest.raises(UserError, match='reduce_zero_label=True shifts it'):
        make(pairs, pipeline=[dict(STOCK, reduce_zero_label=True)])


def test_published_ids(pairs):
    with pytest.raises(UserError, match='GTA5Dataset.*the id 0, which means'):
        GTA5Dataset(data_root=str(pairs), pipeline=[IMAGE, STOCK])


def test_labels_that_are_not_there(pairs):
    def unlabelled(step):
        return DGDataset(
            domain='web',
            data_root=str(pairs),
            data_prefix=dict(img_path='images'),
            pipeline=[IMAGE, step],
        )

    with pytest.raises(UserError, match='reads labels by LoadAnnotations'):
        unlabelled(STOCK)
    # A test predicts images without labels.
    assert 'gt_seg_map' not in unlabelled(OURS)[0]
