"""All readers of images agree, and datasets hand on how files are read."""

import io
import shutil
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample
from PIL import Image

from clouds_mmseg.data_tools.prepare.convert import TableConverter
from clouds_mmseg.data_tools.prepare.write import decode_image
from clouds_mmseg.data_tools.verify import Task, verify
from clouds_mmseg.data_tools.verify.report import report_of
from clouds_mmseg.datasets import (
    DataError,
    FolderDataset,
    LoadSegImage,
    LoadSegLabels,
)
from clouds_mmseg.datasets.class_statistics import class_pixels
from clouds_mmseg.datasets.labels import LabelIds, build_label_table
from clouds_mmseg.engine.hooks import visualization as prediction_pictures_hook
from clouds_mmseg.generate.backends import open_source
from clouds_mmseg.robustness import CorruptedDataset
from clouds_mmseg.robustness.run import _corrupt_one, make_corruptions
from clouds_mmseg.utils.errors import UserError

PIXELS = cv2.resize(
    np.random.default_rng(0).integers(0, 255, (6, 9, 3), dtype=np.uint8),
    (90, 60),
)


def save(path, picture, **options):
    picture.save(path, **options)


def turned(orientation):
    exif = Image.Exif()
    exif[274] = orientation
    return dict(exif=exif)


def deep(path, picture):
    cv2.imwrite(str(path), np.asarray(picture)[..., ::-1].astype('u2') * 257)


FILES = {
    'a.png': save,
    'a.jpg': save,
    'progressive.jpg': lambda f, p: save(f, p, progressive=True),
    'on_its_side.jpg': lambda f, p: save(f, p, **turned(6)),
    'upside_down.png': lambda f, p: save(f, p, **turned(3)),
    'mirrored.webp': lambda f, p: save(f, p, lossless=True, **turned(2)),
    'turned.tif': lambda f, p: save(f, p, **turned(8)),
    'grey.jpg': lambda f, p: save(f, p.convert('L')),
    'cmyk.jpg': lambda f, p: save(f, p.convert('CMYK')),
    'palette.png': lambda f, p: save(f, p.convert('P')),
    'alpha.png': lambda f, p: save(f, p.convert('RGBA')),
    'bilevel.png': lambda f, p: save(f, p.convert('1')),
    '16_bits.png': deep,
    'a.bmp': save,
}


def by_loader(path, out):
    return LoadSegImage()(dict(img_path=str(path)))['img'][..., ::-1]


def by_preparation(path, out):
    return decode_image(path.read_bytes(), path.name)[..., ::-1]


def by_generation(path, out):
    return np.asarray(open_source(path))


def by_pictures(path, out):
    """What is drawn beside a prediction."""
    seen = {}

    def strip(image, *args, **kwargs):
        seen['image'] = image
        return original(image, *args, **kwargs)

    original = prediction_pictures_hook.strip
    prediction_pictures_hook.strip = strip
    try:
        shape = by_loader(path, out).shape[:2]
        sample = SegDataSample(metainfo=dict(img_path=str(path)))
        sample.pred_sem_seg = PixelData(data=_zeros(shape))
        hook = prediction_pictures_hook.PredictionPicturesHook()
        hook._meta = dict(palette=[[0, 0, 0]])
        hook._panel(sample, 'a')
    finally:
        prediction_pictures_hook.strip = original
    return seen['image']


def _zeros(shape):
    import torch

    return torch.zeros(1, *shape, dtype=torch.long)


READERS = [by_preparation, by_generation, by_pictures]


@pytest.mark.parametrize('name', FILES)
@pytest.mark.parametrize('read', READERS)
def test_the_same_pixels_as_in_training(tmp_path, name, read):
    path = tmp_path / name
    FILES[name](path, Image.fromarray(PIXELS))
    expected = by_loader(path, tmp_path)
    np.testing.assert_array_equal(read(path, tmp_path), expected)


@pytest.mark.parametrize('name', ['a.png', 'on_its_side.jpg', '16_bits.png'])
def test_corruption_of_the_same_pixels(tmp_path, name):
    pytest.importorskip('imagecorruptions')
    from clouds_mmseg.robustness.corruptions import corrupt_image, image_seed

    path = tmp_path / name
    FILES[name](path, Image.fromarray(PIXELS))
    job = (name, 'fog', [3])
    _corrupt_one(str(tmp_path), str(tmp_path / 'out'), 0, None, job)
    (made,) = (tmp_path / 'out').rglob('*.png')
    seed = image_seed(Path(name).stem, 'fog', 3, 0)
    expected = np.ascontiguousarray(by_loader(path, tmp_path))
    np.testing.assert_array_equal(
        np.asarray(Image.open(made)),
        corrupt_image(expected, 'fog', 3, seed=seed),
    )


def test_normal_files_are_read_as_mmcv_reads_them(tmp_path):
    import mmcv

    for name in ('a.png', 'a.jpg', 'progressive.jpg', 'a.bmp', '16_bits.png'):
        path = tmp_path / name
        FILES[name](path, Image.fromarray(PIXELS))
        known = mmcv.imread(path, backend='cv2')
        got = LoadSegImage()(dict(img_path=str(path)))
        np.testing.assert_array_equal(got['img'], known)
        assert got['img_shape'] == got['ori_shape'] == PIXELS.shape[:2]


@pytest.mark.parametrize('backend', ['cv2', 'pillow'])
def test_backends_of_mmcv_turn_alike(tmp_path, backend):
    path = tmp_path / 'a.png'
    save(path, Image.fromarray(PIXELS), **turned(6))
    load = LoadSegImage(imdecode_backend=backend, to_float32=True)
    image = load(dict(img_path=str(path)))['img']
    assert image.dtype == np.float32
    np.testing.assert_array_equal(image, by_loader(path, None)[..., ::-1])


def test_images_are_never_replaced():
    with pytest.raises(UserError, match='ignore_empty'):
        LoadSegImage(ignore_empty=True)


@pytest.fixture
def folder(tmp_path):
    """Images of 12 bits, labels with ids of 16 bits."""
    for part in ('images', 'labels'):
        (tmp_path / part).mkdir()
    for number in range(3):
        values = np.linspace(0, 1300 * number + 1000, 320)
        values = values.astype(np.uint16).reshape(16, 20)
        ids = np.resize(np.array([0, 7000, 33001], np.uint16), (16, 20))
        Image.fromarray(values).save(tmp_path / f'images/{number}.png')
        Image.fromarray(ids).save(tmp_path / f'labels/{number}.png')
    return tmp_path


def deep_config(root):
    steps = ('LoadSegImage', 'LoadSegLabels', 'PackDGInputs')
    return dict(
        data_root=str(root),
        domain='deep',
        metainfo=dict(classes=['road', 'car']),
        names=dict(void=0, road=7000, car=33001),
        pipeline=[dict(type=step) for step in steps],
    )


def deep_folder(root, **kwargs):
    return FolderDataset(**deep_config(root), **kwargs)


def test_a_set_of_12_bit_images_and_16_bit_labels(folder):
    with pytest.raises(DataError, match='would be black'):
        deep_folder(folder)[0]
    dataset = deep_folder(folder, image_range=[0, 4095])
    item = dataset[2]
    assert item['inputs'].max() == 3600 >> 4
    sample = item['data_samples']
    assert sample.image_range == (0, 4095)
    assert set(np.unique(sample.gt_sem_seg.data)) == {0, 1, 255}
    with pytest.raises(UserError, match='two numbers'):
        deep_folder(folder, image_range=4095)


def test_verification_of_it(folder):
    def kinds(**kwargs):
        dataset = deep_folder(folder, lazy_init=True, **kwargs)
        (report,) = verify([Task('deep', dataset)], workers=1)
        return [f.kind for f in report.findings], report

    assert kinds()[0] == ['image'] * 3
    # That report is none of the same files read with a range.
    asked = deep_folder(folder, lazy_init=True, image_range=(0, 4095))
    assert report_of(asked) is None
    found, report = kinds(image_range=(0, 4095))
    assert found == [] and report.pixels == [321, 318]
    for path in (folder / 'images').iterdir():
        Image.fromarray(np.asarray(Image.open(path)) * 5).save(path)
    # Each may be a dark image; all of them together are none of 16 bits.
    found, report = kinds()
    assert found == ['depth'] and '18000' in report.findings[0].message
    assert kinds(image_range=(0, 65535))[0] == []


def test_statistics_of_16_bit_labels(folder):
    dataset = deep_folder(folder)
    # 320 pixels, three ids in turn.
    assert class_pixels(dataset, workers=1).tolist() == [[107, 106]] * 3
    # From the file beside the data.
    assert class_pixels(dataset, workers=1).tolist() == [[107, 106]] * 3


def test_preparation_of_16_bit_labels(folder):
    payload = (folder / 'labels/0.png').read_bytes()
    convert = TableConverter.of(LabelIds({7000: 4, 33001: 13}, frozenset([0])))
    label = convert(payload, '0.png')
    assert label.dtype == np.uint8
    assert label.ravel()[:4].tolist() == [255, 4, 13, 255]
    with pytest.raises(DataError, match='33001'):
        TableConverter.of(LabelIds({7000: 4}, frozenset([0])))(
            payload, '0.png'
        )


def test_corruptions_of_12_bit_images(folder, tmp_path):
    pytest.importorskip('imagecorruptions')
    out = tmp_path / 'out'
    for path in (folder / 'images').iterdir():
        values = np.asarray(Image.open(path))
        Image.fromarray(np.tile(values, (3, 3))).save(path)
        label = folder / 'labels' / path.name
        ids = np.asarray(Image.open(label))
        Image.fromarray(np.tile(ids, (3, 3))).save(label)
    make = partial(
        make_corruptions, folder / 'images', out, corruptions=['fog'],
        severities=[1], workers=1,
    )  # fmt: skip
    with pytest.raises(DataError, match='would be black'):
        make()
    with pytest.raises(UserError, match='another seed.*image_range'):
        make(image_range=(0, 4095))
    shutil.rmtree(out)
    make(image_range=(0, 4095))
    config = dict(
        deep_config(folder), type='FolderDataset', image_range=(0, 4095)
    )
    kinds = dict(corruptions=['fog'], severities=[1], clean=False)
    made, now = (
        CorruptedDataset(dataset=config, folder=f, **kinds)
        for f in (out, None)
    )
    np.testing.assert_array_equal(made[1]['inputs'], now[1]['inputs'])


def test_instance_ids_are_named(tmp_path):
    ids = np.array([[26001, 7, 26002]], np.uint16)
    Image.fromarray(ids).save(tmp_path / 'a.png')
    table = build_label_table({7: 0, 26: 1}, [255])
    info = dict(seg_map_path=str(tmp_path / 'a.png'), label_table=table)
    with pytest.raises(DataError, match='26001-26002.*instance ids'):
        LoadSegLabels()(info)


def test_labels_that_were_interpolated(tmp_path):
    mask = np.kron(np.eye(4, dtype=np.uint8) * 200, np.ones((8, 8), np.uint8))
    small = cv2.resize(mask, (60, 60), interpolation=cv2.INTER_CUBIC)
    stream = io.BytesIO()
    Image.fromarray(small).save(stream, 'PNG')
    (tmp_path / 'a.png').write_bytes(stream.getvalue())
    table = deep_folder(tmp_path, lazy_init=True).label_table
    info = dict(seg_map_path=str(tmp_path / 'a.png'), label_table=table)
    with pytest.raises(DataError, match='nearest neighbours'):
        LoadSegLabels()(info)
