"""Each published layout and label format is read to train ids."""

import numpy as np
import pytest
from mmengine.dataset import ConcatDataset, pseudo_collate
from mmseg.registry import DATASETS
from prepare_bytes import SYNTHIA, VISTAS

from clouds_mmseg.utils.cityscapes import CLASSES

PIPELINE = [
    dict(type='LoadSegImage'),
    dict(type='LoadSegLabels'),
    dict(type='PackDGInputs'),
]
TRAIN_IDS = [*range(19), 255]
SAME = {i: i for i in TRAIN_IDS}

# The tables as DESIGN gives them, written independently of the package's.
CITYSCAPES = dict(
    zip(
        [7, 8, 11, 12, 13, 17, 19, 20, 21, 22]
        + [23, 24, 25, 26, 27, 28, 31, 32, 33],
        range(19),
        strict=True,
    )
)


def acdc(condition):
    return (
        dict(type='ACDCDataset', condition=condition),
        f'rgb_anon/{condition}/val/GOPR0001/frame_000001_rgb_anon.png',
        f'gt/{condition}/val/GOPR0001/frame_000001_gt_labelTrainIds.png',
        'grey',
        SAME,
        f'acdc_{condition}',
    )


LAYOUTS = [
    (
        dict(type='GTA5Dataset'),
        'images/00001.png',
        'labels/00001.png',
        'palette',
        {i: CITYSCAPES.get(i, 255) for i in range(35)},
        'gta5',
    ),
    (
        dict(type='SYNTHIADataset'),
        'RGB/0000000.png',
        'GT/LABELS/0000000.png',
        'synthia',
        {i: SYNTHIA.get(i, 255) for i in range(23)},
        'synthia',
    ),
    (
        dict(type='CityscapesDGDataset', split='train'),
        'leftImg8bit/train/aachen/aachen_000000_000019_leftImg8bit.png',
        'gtFine/train/aachen/aachen_000000_000019_gtFine_labelTrainIds.png',
        'grey',
        SAME,
        'cityscapes',
    ),
    (
        dict(type='BDD100KDGDataset'),
        'images/10k/val/7d06fefd-f7be05a6.jpg',
        'labels/sem_seg/masks/val/7d06fefd-f7be05a6.png',
        'grey',
        SAME,
        'bdd100k',
    ),
    (
        dict(type='MapillaryDGDataset'),
        'validation/images/_1Gn_xkw7sa_i9GU4mkxxQ.jpg',
        'validation/labels/_1Gn_xkw7sa_i9GU4mkxxQ.png',
        'palette',
        {i: VISTAS.get(i, 255) for i in range(66)},
        'mapillary',
    ),
    (
        # As the makers' tool leaves the labels of IDD 20k II.
        dict(type='IDDDataset'),
        'leftImg8bit/val/259/frame0014_leftImg8bit.jpg',
        'gtFine/val/259/frame0014_gtFine_labelcsTrainIds.png',
        'grey',
        SAME,
        'idd',
    ),
    *map(acdc, ['fog', 'night', 'rain', 'snow']),
]


@pytest.mark.parametrize(
    'cfg, image, label, kind, table, domain', LAYOUTS, ids=lambda v: str(v)
)
def test_layout(files, tmp_path, cfg, image, label, kind, table, domain):
    ids = files.label_of(list(table))
    files.image(tmp_path / image)
    files.label(tmp_path / label, ids, kind)
    dataset = DATASETS.build(
        dict(cfg, data_root=str(tmp_path), pipeline=PIPELINE)
    )
    assert len(dataset) == 1
    sample = dataset[0]['data_samples']
    expected = np.vectorize(table.get)(ids)
    np.testing.assert_array_equal(sample.gt_sem_seg.data[0], expected)
    assert sample.domain == dataset.domain == domain
    assert dataset[0]['inputs'].shape == (3, *files.shape)
    # All 240 pixels hold each id of the table at least once.
    assert set(np.unique(ids)) == set(table)


@pytest.mark.parametrize(
    'cfg, image, label, kind, bad',
    [
        (*LAYOUTS[0][:4], [35, 7]),
        (*LAYOUTS[1][:4], [23, 300]),
        (*LAYOUTS[2][:4], [19]),
        (*LAYOUTS[3][:4], [19, 200]),
        (*LAYOUTS[4][:4], [66, 255]),
        (*LAYOUTS[5][:4], [19, 39]),
        (*LAYOUTS[6][:4], [254]),
    ],
)
def test_undefined_ids_name_the_file(
    files, tmp_path, cfg, image, label, kind, bad
):
    files.image(tmp_path / image)
    files.label(tmp_path / label, files.label_of(bad), kind)
    dataset = DATASETS.build(
        dict(cfg, data_root=str(tmp_path), pipeline=PIPELINE)
    )
    with pytest.raises(Exception, match='ids outside the classes') as caught:
        dataset[0]
    assert str(tmp_path / label) in str(caught.value)
    assert str(max(bad)) in str(caught.value)


def test_all_domains_concatenate(files, tmp_path):
    datasets = []
    for cfg, image, label, kind, table, _ in LAYOUTS:
        files.image(tmp_path / image)
        files.label(tmp_path / label, files.label_of(list(table)), kind)
        datasets.append(dict(cfg, data_root=str(tmp_path), pipeline=PIPELINE))
    joined = ConcatDataset([DATASETS.build(d) for d in datasets])
    assert joined.metainfo['classes'] == CLASSES
    batch = pseudo_collate([joined[i] for i in range(len(joined))])
    assert [s.domain for s in batch['data_samples']] == [
        entry[-1] for entry in LAYOUTS
    ]


def test_synthia_with_8_bits_in_one_channel(files, tmp_path):
    """Copies of the set that keep the class channel alone work as well."""
    files.image(tmp_path / 'RGB/1.png')
    files.label(tmp_path / 'GT/LABELS/1.png', files.label_of([3, 1]))
    dataset = DATASETS.build(
        dict(type='SYNTHIADataset', data_root=str(tmp_path), pipeline=PIPELINE)
    )
    values = dataset[0]['data_samples'].gt_sem_seg.data.unique().tolist()
    assert values == [0, 10]


def test_unknown_condition():
    with pytest.raises(ValueError, match="'hail'.*fog, night, rain, snow"):
        DATASETS.build(dict(type='ACDCDataset', condition='hail'))
