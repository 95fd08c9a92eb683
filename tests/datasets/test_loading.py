"""Damaged and mismatched files, and the packing of samples."""

import re

import cv2
import numpy as np
import pytest
from mmcv.transforms import Compose
from mmengine.dataset import pseudo_collate
from mmseg.registry import TRANSFORMS
from PIL import Image
from torch.utils.data import DataLoader

from clouds_mmseg.datasets import (
    DataError,
    EvaluateAtInputSize,
    GTA5Dataset,
    LoadSegImage,
    LoadSegLabels,
    PackDGInputs,
)
from clouds_mmseg.datasets.labels import build_label_table
from clouds_mmseg.utils.errors import UserError


def cut(path, keep):
    path.write_bytes(path.read_bytes()[:keep])


def problem(transform, info):
    with pytest.raises(DataError) as caught:
        transform(info)
    return str(caught.value)


@pytest.fixture
def info(pairs):
    dataset = GTA5Dataset(data_root=str(pairs))
    return dataset.get_data_info(1)


def test_image_is_bgr(pairs, files, info):
    pixels = files.image(pairs / 'images/00001.png', seed=1)
    results = LoadSegImage()(info)
    np.testing.assert_array_equal(results['img'], pixels[..., ::-1])
    assert results['ori_shape'] == files.shape


@pytest.mark.parametrize('suffix', ['.png', '.jpg'])
def test_every_cut_of_an_image_is_found(tmp_path, files, suffix):
    path = tmp_path / f'a{suffix}'
    files.image(path, 40, 60)
    whole = path.read_bytes()
    results = LoadSegImage()(dict(img_path=str(path)))
    assert results['img'].shape == (40, 60, 3)
    for keep in (len(whole) - 1, len(whole) - 9, len(whole) // 2, 30):
        cut(path, keep)
        text = problem(LoadSegImage(), dict(img_path=str(path)))
        assert str(path) in text and 'truncated' in text and 'skip' in text
        path.write_bytes(whole)


def test_trailing_bytes_are_no_damage(tmp_path, files):
    path = tmp_path / 'a.png'
    files.image(path)
    path.write_bytes(path.read_bytes() + b'\0' * 100)
    LoadSegImage()(dict(img_path=str(path)))


@pytest.mark.parametrize('loader', ['image', 'label'])
def test_files_that_are_no_pictures(tmp_path, loader):
    path = tmp_path / 'a.png'
    if loader == 'image':
        transform, key = LoadSegImage(), 'img_path'
    else:
        transform, key = LoadSegLabels(), 'seg_map_path'
    info = {key: str(path), 'label_table': None}
    text = problem(transform, dict(info))
    assert f'{loader} {path} cannot be read: No such file' in text
    path.write_bytes(b'')
    assert f'{loader} {path} is empty' in problem(transform, dict(info))
    path.write_bytes(b'<html>login</html>')
    assert f'{loader} {path} cannot be decoded' in problem(
        transform, dict(info)
    )


def test_corrupt_in_the_middle(pairs, info):
    for key, kind in (('img_path', 'image'), ('seg_map_path', 'label')):
        path = pairs / f'{kind}s/00001.png'
        payload = bytearray(path.read_bytes())
        start = payload.index(b'IDAT') + 8
        payload[start : start + 4] = b'\xff\xff\xff\xff'
        path.write_bytes(payload)
        transform = LoadSegImage() if kind == 'image' else LoadSegLabels()
        assert f'{kind} {info[key]} cannot be decoded' in problem(
            transform, dict(info)
        )


def test_truncated_label(pairs, info):
    path = pairs / 'labels/00001.png'
    cut(path, path.stat().st_size - 20)
    text = problem(LoadSegLabels(), info)
    assert str(path) in text and 'truncated' in text


def test_corrupt_16_bit_label(tmp_path, files):
    path = tmp_path / 'a.png'
    files.label(path, files.label_of([3]), 'synthia')
    payload = bytearray(path.read_bytes())
    start = payload.index(b'IDAT') + 8
    payload[start : start + 4] = b'\xff\xff\xff\xff'
    path.write_bytes(payload)
    info = dict(
        seg_map_path=str(path), label_channel='first', label_table=None
    )
    assert 'cannot be decoded' in problem(LoadSegLabels(), info)


def test_size_of_image_and_label_differ(pairs, files, info):
    files.image(pairs / 'images/00001.png', 14, 20)
    text = problem(LoadSegLabels(), LoadSegImage()(info))
    assert f'label {pairs}/labels/00001.png is 20x12' in text
    assert f'image {pairs}/images/00001.png is 20x14' in text
    assert 'skip' in text


def test_labels_in_colour_are_refused(pairs, files, info):
    files.image(pairs / 'labels/00001.png')
    text = problem(LoadSegLabels(), info)
    assert '00001.png has 3 channels' in text


def test_undefined_ids_are_listed_in_runs(pairs, files, info):
    files.label(
        pairs / 'labels/00001.png', files.label_of([7, 40, 41, 42, 99])
    )
    text = problem(LoadSegLabels(), info)
    assert 'outside the classes: 40-42, 99; the dataset defines 0-34, 255' in (
        text
    )


def test_binary_labels(tmp_path):
    path = tmp_path / 'a.png'
    Image.fromarray(np.eye(4, dtype=bool)).save(path)
    table = build_label_table({0: 0, 1: 1}, [255])
    results = LoadSegLabels()(dict(seg_map_path=str(path), label_table=table))
    np.testing.assert_array_equal(results['gt_seg_map'], np.eye(4))


def test_errors_reach_the_main_process_whole(pairs):
    path = pairs / 'images/00002.png'
    cut(path, 60)
    dataset = GTA5Dataset(
        data_root=str(pairs), pipeline=[LoadSegImage(), LoadSegLabels()]
    )
    loader = DataLoader(dataset, num_workers=1, collate_fn=pseudo_collate)
    with pytest.raises(DataError, match=re.escape(str(path))):
        list(loader)


def test_labels_follow_the_geometry(pairs, files):
    """The label takes part in resize, crop and flip like the image."""
    dataset = GTA5Dataset(
        data_root=str(pairs),
        pipeline=[
            dict(type='LoadSegImage'),
            dict(type='LoadSegLabels'),
            dict(type='Resize', scale=(40, 24)),
            dict(type='RandomFlip', prob=1.0),
            dict(type='RandomCrop', crop_size=(16, 16)),
            dict(type='PackDGInputs'),
        ],
    )
    item = dataset[0]
    assert item['inputs'].shape == (3, 16, 16)
    label = item['data_samples'].gt_sem_seg.data[0].numpy()
    assert label.shape == (16, 16) and label.dtype == np.int64
    assert set(np.unique(label)) == {0, 1, 13, 255}
    whole = np.resize([0, 1, 13, 255], files.shape)
    whole = cv2.resize(whole, (40, 24), interpolation=cv2.INTER_NEAREST)
    windows = np.lib.stride_tricks.sliding_window_view(
        whole[:, ::-1], (16, 16)
    )
    assert (windows == label).all((-1, -2)).any()


class TestPack:
    def test_argument_wins_over_the_dataset(self):
        pack = TRANSFORMS.build(dict(type='PackDGInputs', domain='web'))
        packed = pack(dict(img=np.zeros((4, 4, 3), np.uint8), domain='gta5'))
        assert packed['data_samples'].domain == 'web'
        assert "domain='web'" in repr(pack)

    def test_own_meta_keys_keep_the_domain(self):
        pack = PackDGInputs(meta_keys=('img_path',))
        packed = pack(dict(img_path='a.png', domain='gta5'))
        sample = packed['data_samples']
        assert sample.metainfo == dict(img_path='a.png', domain='gta5')

    @pytest.mark.parametrize('domain', [{}, dict(domain='')])
    def test_neither(self, domain):
        with pytest.raises(UserError, match='a.png has no domain'):
            PackDGInputs()(dict(img_path='a.png', **domain))


class TestEvaluateAtInputSize:
    def pipeline(self, *steps):
        resize = dict(type='Resize', scale=(40, 10), keep_ratio=True)
        known = dict(labels=LoadSegLabels(), resize=TRANSFORMS.build(resize))
        return Compose(
            [
                LoadSegImage(),
                *(known[step] for step in steps),
                EvaluateAtInputSize(),
                PackDGInputs(),
            ]
        )

    def test_label_and_shape_are_those_of_the_input(self, info):
        item = self.pipeline('labels', 'resize')(info)
        sample = item['data_samples']
        assert item['inputs'].shape == (3, 10, 17)
        assert sample.ori_shape == sample.gt_sem_seg.shape == (10, 17)

    def test_without_label(self, info):
        sample = self.pipeline('resize')(info)['data_samples']
        assert sample.ori_shape == (10, 17)

    def test_wrong_order(self, info):
        with pytest.raises(UserError, match='before Resize'):
            self.pipeline('resize', 'labels')(info)

    def test_repr(self):
        assert repr(EvaluateAtInputSize()) == 'EvaluateAtInputSize()'
        assert 'backend_args=None' in repr(LoadSegLabels())
