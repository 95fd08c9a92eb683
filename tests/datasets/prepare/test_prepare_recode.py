"""Copies of the images in formats that are faster to read."""

import json
from collections import namedtuple

import cv2
import numpy as np
import pytest
from mmseg.registry import DATASETS
from prepare_fake import write_archives, write_files
from prepare_fakes import MAKERS

from clouds_mmseg.data_tools.prepare import run as checks
from clouds_mmseg.data_tools.prepare.run import Options, prepare_dataset
from clouds_mmseg.data_tools.prepare.write import RECODES
from clouds_mmseg.datasets import DataError, prepared
from clouds_mmseg.datasets.prepared import LOSSY, MANIFEST

CROP = [
    dict(type='LoadSegImage'),
    dict(type='LoadSegLabels'),
    dict(
        type='RandomResize',
        scale=(20, 12),
        ratio_range=(0.5, 2.0),
        keep_ratio=True,
    ),
    dict(type='RandomCrop', crop_size=(8, 8)),
    dict(type='PhotoMetricDistortion'),
]


EXACT = [kind for kind in RECODES if kind != LOSSY]


def recode(kind, **options):
    return Options(workers=1, recode=kind, **options)


def samples(config, root):
    """The training crops of a set, the same ones at every call."""
    dataset = DATASETS.build(dict(config, data_root=str(root), pipeline=CROP))
    np.random.seed(0)
    return [dataset[index] for index in range(len(dataset))]


@pytest.fixture
def src(tmp_path):
    """GTA5 unpacked."""
    return write_files(tmp_path / 'src', MAKERS['gta5']().files())


@pytest.mark.parametrize('kind', EXACT)
@pytest.mark.parametrize('name', ['gta5', 'cityscapes', 'bdd100k'])
def test_training_sees_the_same_crops(tmp_path, name, kind):
    fake = MAKERS[name]()
    src = write_archives(tmp_path / 'src', fake)
    prepare_dataset(name, src, tmp_path / 'png', Options(workers=1))
    out = tmp_path / kind
    result = prepare_dataset(name, src, out, recode(kind))
    assert result.manifest.splits == fake.splits
    assert json.loads((out / MANIFEST).read_text())['recode'] == kind
    for config in fake.datasets:
        before = samples(config, tmp_path / 'png')
        after = samples(config, out)
        assert len(before) == len(after) > 0
        for a, b in zip(before, after, strict=True):
            assert b['img_path'].endswith(f'.{kind}')
            assert np.array_equal(a['img'], b['img'])
            assert np.array_equal(a['gt_seg_map'], b['gt_seg_map'])
    again = prepare_dataset(name, src, out, recode(kind))
    assert (again.created, again.existing) == (0, result.created)


def test_jpeg_copies_are_near_and_say_that_they_differ(
    src, tmp_path, monkeypatch
):
    rng = np.random.default_rng(0)
    shades = np.linspace(0, 240, 20)[:, None]
    for path in (src / 'images').iterdir():
        image = shades + rng.integers(0, 8, (12, 20, 3))
        cv2.imwrite(str(path), image.astype(np.uint8))
    said = []
    monkeypatch.setattr(
        prepared, 'print_log', lambda text, **options: said.append(text)
    )
    pairs = []
    for kind in (None, LOSSY):
        prepare_dataset('gta5', src, tmp_path / str(kind), recode(kind))
        pairs.append(samples(dict(type='GTA5Dataset'), tmp_path / str(kind)))
    gaps = []
    for a, b in zip(*pairs, strict=True):
        assert b['img_path'].endswith('.jpg')
        assert np.array_equal(a['gt_seg_map'], b['gt_seg_map'])
        gaps.append(np.abs(a['img'].astype(int) - b['img']).max())
    assert 0 < max(gaps) < 40
    assert len(said) == 1 and 'numbers measured on it are not' in said[0]


def test_jpeg_files_are_not_compressed_twice(tmp_path):
    src = write_archives(tmp_path / 'src', MAKERS['bdd100k']())
    with pytest.raises(DataError, match='is a JPEG file, which a second'):
        prepare_dataset('bdd100k', src, tmp_path / 'out', recode(LOSSY))


def test_a_folder_is_of_one_format(src, tmp_path):
    prepare_dataset('gta5', src, tmp_path / 'out', recode('bmp'))
    with pytest.raises(DataError, match='--recode bmp, now it is None'):
        prepare_dataset('gta5', src, tmp_path / 'out', Options(workers=1))
    with pytest.raises(
        DataError, match='--recode tiff: known are bmp, webp, jpg'
    ):
        Options(recode='tiff')


def test_in_place_the_published_images_stay(src):
    before = {p: p.read_bytes() for p in src.rglob('*.png')}
    for made in (6, 0):
        result = prepare_dataset('gta5', src, src, recode('webp'))
        assert result.created == made
    assert {p: p.read_bytes() for p in before} == before
    crops = samples(dict(type='GTA5Dataset'), src)
    assert {c['img_path'].rpartition('.')[2] for c in crops} == {'webp'}


def test_smaller_copies_are_recoded_too(src, tmp_path):
    small = recode('bmp', resize_short=6)
    prepare_dataset('gta5', src, tmp_path / 'out', small)
    paths = list((tmp_path / 'out/images').iterdir())
    # 54 bytes of header; rows of 30 bytes are filled up to 32.
    assert [p.stat().st_size for p in paths] == [54 + 6 * 32] * 3


def test_lists_name_images_as_published(src, tmp_path):
    prepare_dataset('gta5', src, tmp_path / 'out', recode('bmp'))
    names = [p.stem for p in sorted((src / 'images').iterdir())]
    for skip in ([f'{names[0]}.png'], [names[0]], [f'{names[0]}.bmp']):
        config = dict(type='GTA5Dataset', skip=skip)
        assert len(samples(config, tmp_path / 'out')) == 2


@pytest.mark.parametrize('kind', RECODES)
def test_a_copy_that_breaks_off_is_an_error(src, tmp_path, kind):
    prepare_dataset('gta5', src, tmp_path / 'out', recode(kind))
    path = next((tmp_path / 'out/images').iterdir())
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DataError, match=f'{path.name} is truncated'):
        samples(dict(type='GTA5Dataset'), tmp_path / 'out')


def test_a_damaged_image_is_not_copied(src, tmp_path):
    path = next((src / 'images').iterdir())
    data = bytearray(path.read_bytes())
    data[data.find(b'IDAT') + 6] ^= 1
    path.write_bytes(data)
    with pytest.raises(DataError, match='wrong checksum of its chunk IDAT'):
        prepare_dataset('gta5', src, tmp_path / 'out', recode('bmp'))


def test_the_room_is_that_of_the_copies(src, tmp_path, monkeypatch):
    need = 3 * (54 + 12 * 60)
    usage = namedtuple('usage', 'free')

    def free(share):
        found = usage(share * need)
        monkeypatch.setattr(checks.shutil, 'disk_usage', lambda _: found)

    free(0.9)
    # Links take no room.
    prepare_dataset('gta5', src, tmp_path / 'links', Options(workers=1))
    with pytest.raises(DataError, match='needs about'):
        prepare_dataset('gta5', src, tmp_path / 'out', recode('bmp'))
    free(1.1)
    prepare_dataset('gta5', src, tmp_path / 'out', recode('bmp'))
