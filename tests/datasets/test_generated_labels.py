"""Image banks made from label maps, as training reads them."""

import hashlib

import numpy as np
import pytest
from mmseg.registry import DATASETS, TRANSFORMS

from clouds_mmseg.datasets.labels import build_label_table
from clouds_mmseg.engine.data_check import require_labels
from clouds_mmseg.generate.backends import encode_png
from clouds_mmseg.generate.image_bank import ImageBank
from clouds_mmseg.utils.errors import DataError, UserError

LABEL = np.repeat(np.uint8([[0, 10, 13, 255]]), 4, axis=0)


@pytest.fixture
def sources(tmp_path):
    """Folder of two images, both (4, 4) and black."""
    root = tmp_path / 'images'
    root.mkdir()
    for number in range(2):
        payload = encode_png(np.zeros((4, 4, 3), np.uint8))
        (root / f'{number}.png').write_bytes(payload)
    return root


@pytest.fixture
def bank(tmp_path, sources):
    return write_bank(tmp_path / 'bank', sources, LABEL)


def write_bank(root, sources, label):
    bank = ImageBank(
        root,
        dict(backend='diffusers', model='m', mode='label2img'),
        info=dict(source_root=str(sources)),
        num=2,
    )
    for number in range(2):
        image = np.full((4, 4, 3), 50 + number, np.uint8)
        image[0, 0] = 0
        payload = encode_png(image)
        bank.add(
            number,
            payload,
            dict(
                prompt='a street',
                seed=number,
                source=f'{number}.png',
                width=4,
                height=4,
                bytes=len(payload),
                sha256=hashlib.sha256(payload).hexdigest(),
            ),
            training_label=None if label is None else encode_png(label),
        )
    bank.finish()
    bank.close()
    return root


def sample(sources):
    return dict(
        img_path=str(sources / '1.png'),
        img=np.zeros((4, 4, 3), np.uint8),
        gt_seg_map=np.full((4, 4), 7, np.uint8),
        # The source's files hold label ids: 7 is road, 23 sky, 26 car.
        label_table=build_label_table({7: 0, 23: 10, 26: 13}, [0]),
    )


def test_a_variant_brings_its_label_along(bank, sources):
    step = TRANSFORMS.build(
        dict(type='DiffusionAugment', bank=str(bank), prob=1.0)
    )
    out = step(sample(sources))
    assert out['img'][2, 2].tolist() == [51, 51, 51]
    # Class indices are not mapped a second time.
    assert np.array_equal(out['gt_seg_map'], LABEL)
    unlabelled = sample(sources)
    del unlabelled['gt_seg_map']
    assert 'gt_seg_map' not in step(unlabelled)


def test_a_label_that_does_not_fit_the_source(tmp_path, sources):
    for label, message in (
        (np.full((4, 4), 5, np.uint8), 'ids outside the classes: 5'),
        (np.zeros((4, 6), np.uint8), 'is 6x4, but its image'),
    ):
        root = write_bank(tmp_path / message[-3:], sources, label)
        step = TRANSFORMS.build(
            dict(type='DiffusionAugment', bank=str(root), prob=1.0)
        )
        with pytest.raises(DataError, match=message):
            step(sample(sources))


def dataset(bank, **options):
    return DATASETS.build(
        dict(
            type='GeneratedDataset',
            bank=str(bank),
            pipeline=[
                dict(type='LoadSegImage'),
                dict(type='LoadSegLabels'),
                dict(type='PackDGInputs'),
            ],
            **options,
        )
    )


def test_a_bank_with_labels_is_a_labelled_dataset(bank, tmp_path, sources):
    found = dataset(bank, labels=True, domain='from_labels')
    require_labels(found)
    packed = found[1]['data_samples']
    assert packed.domain == 'from_labels'
    assert np.array_equal(packed.gt_sem_seg.data[0].numpy(), LABEL)
    with pytest.raises(UserError, match='not both'):
        dataset(bank, labels=True, evaluation_labels=True)
    with pytest.raises(UserError, match='has no label folder'):
        require_labels(dataset(bank))
    (bank / 'labels/000001.png').write_bytes(encode_png(LABEL[::-1, ::-1]))
    with pytest.raises(DataError, match='the hash of labels/000001.png diff'):
        dataset(bank, labels=True).full_init()
    without = write_bank(tmp_path / 'without', sources, None)
    with pytest.raises(DataError, match='have no label:[^!]*--mode label2img'):
        dataset(without, labels=True).full_init()
