"""Single files: damaged, missing, odd, in the way."""

import json
import os

import cv2
import numpy as np
import pytest
from mmengine.logging import MMLogger
from mmseg.registry import DATASETS
from PIL import Image
from prepare_bytes import image_bytes, label_bytes, spread
from prepare_fake import open_gta5, write_archives, write_files
from prepare_fakes import MAKERS

from clouds_mmseg.data_tools.prepare.run import (
    Options,
    bad_files_error,
    prepare_dataset,
)
from clouds_mmseg.datasets import DataError
from clouds_mmseg.datasets.prepared import MANIFEST

ONE = Options(workers=1)
SKIP = Options(workers=1, skip_bad=True)


@pytest.fixture
def src(tmp_path):
    """GTA5 unpacked."""
    return write_files(tmp_path / 'src', MAKERS['gta5']().files())


def fails(src, out, options=ONE, name='gta5'):
    with pytest.raises(DataError) as caught:
        prepare_dataset(name, src, out, options)
    return str(caught.value)


def damage(path, how):
    data = bytearray(path.read_bytes())
    if how == 'truncated':
        data = data[:-20]
    elif how == 'flipped':
        data[data.find(b'IDAT') + 6] ^= 1
    elif how == 'empty':
        data = b''
    path.unlink()
    path.write_bytes(data)


@pytest.mark.parametrize(
    'file, how, words',
    [
        ('labels/00002.png', 'truncated', 'lack the end marker'),
        ('labels/00002.png', 'flipped', 'wrong checksum of its chunk IDAT'),
        ('labels/00002.png', 'empty', 'is empty'),
        ('images/00002.png', 'truncated', 'lack the end marker'),
        ('images/00002.png', 'empty', 'is empty'),
    ],
)
@pytest.mark.parametrize('in_place', [False, True])
def test_damaged_files_are_named_and_may_be_left_out(
    src, tmp_path, file, how, words, in_place
):
    damage(src / file, how)
    damaged = (src / file).read_bytes()
    out = src if in_place else tmp_path / 'out'
    text = fails(src, out)
    assert str(src / file) in text and words in text and '--skip-bad' in text
    assert '1 file cannot be used' in text
    with pytest.raises(DataError, match='was interrupted'):
        open_gta5(out)
    result = prepare_dataset('gta5', src, out, SKIP)
    assert result.manifest.left_out == ['images/00002.png']
    assert result.manifest.splits == dict(train=2)
    assert result.created + result.existing == 5
    assert (src / file).read_bytes() == damaged
    names = {os.path.basename(s['img_path']) for s in open_gta5(out)}
    assert names == {'00001.png', '00003.png'}


def test_archives_check_what_they_hold(tmp_path):
    fake = MAKERS['gta5']()
    src = write_archives(tmp_path / 'src', fake)
    path = src / '01_labels.zip'
    data = bytearray(path.read_bytes())
    place_of_data = data.find(b'labels/00001.png', 40) + 30
    data[place_of_data] ^= 0xFF
    path.write_bytes(data)
    text = fails(src, tmp_path / 'out')
    assert '01_labels.zip: labels/00001.png cannot be read' in text


def test_ids_that_the_set_does_not_define(src, tmp_path):
    path = src / 'labels/00003.png'
    path.write_bytes(label_bytes(spread([7, 99]), 'palette'))
    text = fails(src, tmp_path / 'out')
    assert f'{path} has ids outside the classes: 99' in text
    path.write_bytes(image_bytes())
    assert 'has 3 channels' in fails(src, tmp_path / 'out')
    path.write_bytes(b'no picture')
    assert 'cannot be decoded' in fails(src, tmp_path / 'out')


def test_the_error_counts_the_files_that_it_does_not_list():
    names = [f'{number}.png' for number in range(25)]
    text = str(bad_files_error([f'{name} is damaged' for name in names], 0))
    assert '25 files cannot be used' in text and 'and 5 more' in text
    assert [name for name in names if f'  {name} ' in text] == names[:20]


def test_files_without_partner(src, tmp_path):
    (src / 'labels/00002.png').unlink()
    (src / 'images/00003.png').unlink()
    text = fails(src, tmp_path / 'out')
    assert f'{src}/images/00002.png: there is no label' in text
    assert f'{src}/labels/00003.png: there is no image' in text
    assert not (tmp_path / 'out').exists()
    result = prepare_dataset('gta5', src, tmp_path / 'out', SKIP)
    assert result.manifest.splits == dict(train=1)
    assert result.manifest.left_out == ['images/00002.png']
    assert len(open_gta5(tmp_path / 'out')) == 1


def test_the_wrong_folder_says_what_is_expected(src, tmp_path):
    text = fails(src, tmp_path / 'out', name='synthia')
    assert 'no images of SYNTHIA' in text
    assert 'RGB/0000000.png' in text and 'images/00001.png' in text
    os.rename(src / 'labels', src / 'annotations')
    assert 'no labels of GTA5' in fails(src, tmp_path / 'out')


def test_odd_names(tmp_path):
    """Spaces, non-ASCII letters, and what macOS adds."""
    files = MAKERS['gta5']().files()
    stem = 'räum lich – 道路 #1'
    files[f'images/{stem}.png'] = files.pop('images/00001.png')
    files[f'labels/{stem}.png'] = files.pop('labels/00001.png')
    files['__MACOSX/images/._00002.png'] = b'x'
    files['.DS_Store'] = b'x'
    folder = write_files(tmp_path / 'my däta', files)
    out = tmp_path / 'aus gabe é'
    prepare_dataset('gta5', folder, out, ONE)
    assert (out / f'labels/{stem}_labelTrainIds.png').is_file()
    fake = MAKERS['gta5']()
    fake.archives = {'ä.zip': files}
    write_archives(tmp_path / 'zips', fake)
    again = prepare_dataset('gta5', tmp_path / 'zips', out, ONE)
    assert (again.created, again.existing) == (0, 6)
    assert len(open_gta5(out)) == 3


def test_nothing_is_overwritten(src, tmp_path):
    out = tmp_path / 'out'
    write_files(out, {'images/00002.png': b'mine'})
    text = fails(src, out)
    assert f'{out}/images/00002.png is in the way' in text
    assert (out / 'images/00002.png').read_bytes() == b'mine'


def test_two_sources_that_differ(src, tmp_path):
    other = write_files(
        tmp_path / 'other', {'images/00001.png': image_bytes(5, size=(9, 9))}
    )
    text = fails([src, other], tmp_path / 'out')
    assert f'{src}/images/00001.png' in text
    assert f'{other}/images/00001.png' in text
    # Unpacked beside its archives, a file is taken from the folder.
    write_archives(src, MAKERS['gta5']())
    result = prepare_dataset('gta5', src, tmp_path / 'out', ONE)
    assert result.manifest.link and result.created == 6


def test_copies_and_other_links(src, tmp_path, monkeypatch):
    copy = Options(workers=1, link=False)
    prepare_dataset('gta5', src, tmp_path / 'a', copy)
    image = tmp_path / 'a/images/00001.png'
    assert not image.is_symlink() and image.stat().st_nlink == 1
    # A link of an earlier run becomes a copy if copies are asked for.
    prepare_dataset('gta5', src, tmp_path / 'b', ONE)
    again = prepare_dataset('gta5', src, tmp_path / 'b', copy)
    assert again.created == 3 and not again.manifest.link
    assert not (tmp_path / 'b/images/00001.png').is_symlink()

    def no_links(*args):
        raise PermissionError(1, 'no symbolic links here')

    monkeypatch.setattr(os, 'symlink', no_links)
    prepare_dataset('gta5', src, tmp_path / 'c', ONE)
    image = tmp_path / 'c/images/00001.png'
    assert image.stat().st_nlink == 2
    monkeypatch.setattr(os, 'link', no_links)
    prepare_dataset('gta5', src, tmp_path / 'd', ONE)
    assert (tmp_path / 'd/images/00001.png').stat().st_nlink == 1


def test_a_source_that_was_moved(src, tmp_path):
    out = tmp_path / 'out'
    prepare_dataset('gta5', src, out, ONE)
    src.rename(tmp_path / 'moved')
    result = prepare_dataset('gta5', tmp_path / 'moved', out, ONE)
    assert (result.created, result.existing) == (3, 3)
    assert len(open_gta5(out)) == 3


@pytest.mark.parametrize('name', ['gta5', 'bdd100k'])
def test_a_smaller_copy(tmp_path, name):
    fake = MAKERS[name]()
    src = write_archives(tmp_path / 'src', fake)
    small = Options(workers=1, resize_short=6)
    out = tmp_path / 'out'
    result = prepare_dataset(name, src, out, small)
    assert json.loads((out / MANIFEST).read_text())['resize_short'] == 6
    pictures = [*out.rglob('*.png'), *out.rglob('*.jpg')]
    assert len(pictures) == result.created
    assert {Image.open(p).size for p in pictures} == {(10, 6)}
    for path in out.rglob('*_labelTrainIds.png'):
        values = np.unique(cv2.imread(str(path), cv2.IMREAD_UNCHANGED))
        assert set(values) <= {*range(19), 255} and len(values) > 5
    assert prepare_dataset(name, src, out, small).created == 0
    text = fails(src, out, name=name)
    assert 'prepared with --resize-short 6, now it is None' in text
    # Nothing is enlarged.
    large = Options(workers=1, resize_short=100)
    prepare_dataset(name, src, tmp_path / 'same', large)
    size = {Image.open(p).size for p in (tmp_path / 'same').rglob('*.png')}
    assert size == {(20, 12)}
    with pytest.raises(DataError, match='--resize-short 0'):
        Options(resize_short=0)


def test_in_place_nothing_is_resized(src):
    text = fails(src, src, Options(workers=1, resize_short=6))
    assert 'is the published file itself' in text


def test_other_sets_in_the_folder(src, tmp_path):
    prepare_dataset('gta5', src, tmp_path / 'out', ONE)
    text = fails(src, tmp_path / 'out', name='synthia')
    assert 'prepared with set gta5, now it is synthia' in text
    with pytest.raises(DataError, match='holds gta5 according to its'):
        DATASETS.build(
            dict(type='SYNTHIADataset', data_root=str(tmp_path / 'out'))
        )
    (tmp_path / 'out' / MANIFEST).write_text('{')
    assert 'is damaged' in fails(src, tmp_path / 'out')
    (tmp_path / 'out' / MANIFEST).write_text(
        '{"format": 2, "name": "gta5", "splits": {}}'
    )
    assert 'has format 2' in fails(src, tmp_path / 'out')
    assert 'none of the sets' in fails(src, tmp_path / 'x', name='gta6')


def test_several_processes(src, tmp_path):
    result = prepare_dataset('gta5', src, tmp_path / 'out', Options(workers=2))
    assert result.created == 6 and len(open_gta5(tmp_path / 'out')) == 3
    zips = write_archives(tmp_path / 'zips', MAKERS['gta5']())
    result = prepare_dataset(
        'gta5', zips, tmp_path / 'out2', Options(workers=2)
    )
    assert result.created == 6


def test_counts_are_compared_with_the_release(src, tmp_path, caplog):
    # mmengine's logger does not propagate.
    logger = MMLogger.get_current_instance()
    logger.addHandler(caplog.handler)
    prepare_dataset('gta5', src, tmp_path / 'out', ONE)
    logger.removeHandler(caplog.handler)
    assert 'train: 3 images, the official release has 24966' in caplog.text


def test_part_by_part(tmp_path):
    """Where there is no room for all archives at once."""
    src = write_archives(tmp_path / 'src', MAKERS['gta5']())
    out = tmp_path / 'out'
    first = [src / '01_images.zip', src / '01_labels.zip']
    result = prepare_dataset('gta5', first, out, ONE)
    assert result.manifest.splits == dict(train=2)
    second = [src / '02_images.zip', src / '02_labels.zip']
    result = prepare_dataset('gta5', second, out, ONE)
    assert (result.created, result.existing) == (2, 0)
    assert result.manifest.splits == dict(train=3)
    assert len(open_gta5(out)) == 3
