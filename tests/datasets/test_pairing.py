"""Which files are images, and which label is whose."""

import logging
import os

import pytest
from mmengine.logging import MMLogger

from clouds_mmseg.datasets import DataError, FolderDataset, GTA5Dataset
from clouds_mmseg.datasets.files import Lookup, unique_names
from clouds_mmseg.utils.errors import UserError


@pytest.fixture
def folder(tmp_path, files):
    """Write pairs; ``names`` are image -> label."""

    def write(**names):
        for image, label in names.items():
            files.image(tmp_path / 'images' / image)
            files.label(tmp_path / 'labels' / label, files.label_of([0, 1]))
        return tmp_path

    return write


@pytest.fixture
def said(caplog):
    logger = MMLogger.get_current_instance()
    logger.addHandler(caplog.handler)
    caplog.set_level(logging.INFO)
    yield caplog
    logger.removeHandler(caplog.handler)


def make(root, **options):
    options = dict(domain='mine', metainfo=dict(classes=['a', 'b'])) | options
    return FolderDataset(data_root=str(root), **options)


def pairs_of(dataset):
    infos = [dataset.get_data_info(i) for i in range(len(dataset))]
    root = dataset.data_root
    return {
        os.path.relpath(i['img_path'], f'{root}/images'): os.path.relpath(
            i['seg_map_path'], f'{root}/labels'
        )
        for i in infos
    }


def test_the_case_of_a_suffix_does_not_matter(folder, said):
    expected = {'0.png': '0.PNG', '1.PNG': '1.png', '2.Png': '2.Png'}
    root = folder(**expected)
    assert pairs_of(make(root)) == expected
    assert 'not used' not in said.text


def test_several_suffixes(folder):
    root = folder(**{'0.png': '0.png', 'a/1.jpg': 'a/1.png'})
    dataset = make(root, img_suffix=['.jpg', '.png'])
    assert pairs_of(dataset) == {'0.png': '0.png', 'a/1.jpg': 'a/1.png'}


def test_images_that_no_suffix_fits_are_told(folder, said):
    root = folder(**{'0.png': '0.png', 'a/1.jpeg': 'a/1.png'})
    assert len(make(root)) == 1
    assert '1 images *.jpeg in' in said.text and 'a/1.jpeg' in said.text
    with pytest.raises(DataError, match=r'1 \*\.png, 1 \*\.jpeg'):
        make(folder(), img_suffix='.tif', seg_map_suffix='.png')
    # Those that a longer suffix leaves out on purpose are not.
    said.clear()
    root = folder(**{'2_rgb.png': '2_ids.png', '2_depth.png': '2_ids.png'})
    dataset = make(root, img_suffix='_rgb.png', seg_map_suffix='_ids.png')
    assert len(dataset) == 1 and 'not used' not in said.text


def test_hidden_files_are_no_images(folder, files):
    root = folder(**{'0.png': '0.png'})
    for name in ('._0.png', '.ipynb_checkpoints/1.png', '__MACOSX/2.png'):
        files.image(root / 'images' / name)
    (root / 'images/.DS_Store').write_bytes(b'x')
    (root / 'images/Thumbs.db').write_bytes(b'x')
    (root / 'images/empty').mkdir()
    assert list(pairs_of(make(root))) == ['0.png']


def test_links(folder, tmp_path_factory):
    root = folder(**{'0.png': '0.png', 'a/1.png': 'a/1.png'})
    elsewhere = tmp_path_factory.mktemp('elsewhere')
    for kind in ('images', 'labels'):
        (root / kind / 'a').rename(elsewhere / kind)
        (root / kind / 'a').symlink_to(elsewhere / kind)
        (root / kind / 'b').symlink_to(root / kind)
    assert list(pairs_of(make(root))) == ['0.png', 'a/1.png']
    (root / 'images/2.png').symlink_to(root / 'gone.png')
    (root / 'labels/2.png').symlink_to(root / 'labels/0.png')
    with pytest.raises(DataError, match=r'links to files that do not exist'):
        make(root)
    assert len(make(root, skip=['2'])) == 2


def test_one_label_of_two_images_is_an_error(folder):
    root = folder(**{'0.png': '0.png', '0.jpg': '0.png'})
    with pytest.raises(DataError, match=r'belong to two images.*0\.jpg'):
        make(root, img_suffix=('.png', '.jpg'))
    # Without labels they are two images, and get two predictions.
    dataset = make(
        root,
        img_suffix=('.png', '.jpg'),
        data_prefix=dict(img_path='images'),
    )
    names = {dataset.get_data_info(i)['sample_name'] for i in range(2)}
    assert names == {'0.png', '0.jpg'}


def test_labels_beside_their_images(tmp_path, files):
    for number in range(2):
        files.image(tmp_path / f'{number}.png')
        files.label(tmp_path / f'{number}_mask.png', files.label_of([0, 1]))
    dataset = make(
        tmp_path,
        data_prefix=dict(img_path='', seg_map_path=''),
        seg_map_suffix='_mask.png',
    )
    assert len(dataset) == 2


def test_labels_without_images_are_told(folder, said):
    root = folder(**{'0.png': '0.png', '1.png': '1.png'})
    (root / 'images/1.png').unlink()
    make(root)
    assert '1 labels have no image' in said.text
    assert 'labels/1.png' in said.text


def test_images_of_one_split_and_labels_of_another_are_told(folder, said):
    root = folder(**{'train/0.png': 'val/0.png'})
    prefix = dict(img_path='images/train', seg_map_path='labels/val')
    make(root, data_prefix=prefix)
    assert 'is that meant?' in said.text


@pytest.mark.parametrize(
    'text',
    [
        b'0\na/1\n',
        b'\xef\xbb\xbf0\r\na/1\r\n\r\n',
        '0.png\na\\1.png\n\n'.encode('utf-16'),
        b' 0.PNG \na/1.png',
    ],
)
@pytest.mark.parametrize('key', ['ann_file', 'skip'])
def test_lists_as_people_write_them(folder, text, key):
    names = {f'{n}.png': f'{n}.png' for n in ('0', 'a/1', '2')}
    names['0.PNG'] = names.pop('0.png')
    root = folder(**names)
    (root / 'list.txt').write_bytes(text.replace(b'0.PNG', b'0'))
    path = 'list.txt' if key == 'ann_file' else str(root / 'list.txt')
    found = list(pairs_of(make(root, **{key: path})))
    expected = ['0.PNG', 'a/1.png'] if key == 'ann_file' else ['2.png']
    assert found == expected


def test_lists_that_cannot_be_meant(folder, said):
    root = folder(**{'0.png': '0.png', 'a/0.png': 'a/0.png'})
    (root / 'list.txt').write_text('0\n0.png\n')
    assert len(make(root, ann_file='list.txt')) == 2
    assert 'more than once, for example 0.png' in said.text
    (root / 'list.txt').write_text('\n\n')
    with pytest.raises(DataError, match='names no image'):
        make(root, ann_file='list.txt')
    with pytest.raises(DataError, match=r'lack their image.*\n.*7\.png'):
        (root / 'list.txt').write_text('7.png\n')
        make(root, ann_file='list.txt')
    make(root, skip=['a/0.png', 'zzz'])
    assert 'skip names 1 images that are not there: zzz' in said.text
    with pytest.raises(DataError, match='skip names every image'):
        make(root, skip=['0.png'])
    assert "'0.png' in skip is the name of 2 images" in said.text
    with pytest.raises(UserError, match=r'0\.png is not UTF-8: line'):
        make(root, skip=str(root / 'images/0.png'))


def test_names_of_samples_keep_their_folders(folder):
    root = folder(**{'a/0.png': 'a/0.png', 'b/0.png': 'b/0.png'})
    dataset = make(root)
    names = [dataset.get_data_info(i)['sample_name'] for i in range(2)]
    assert names == ['a/0', 'b/0']
    assert unique_names(['0.png', '0.jpg', '1.jpg', '1.jpg']) == [
        '0.png',
        '0.jpg',
        '1',
        '1',
    ]


def test_the_exact_name_comes_first():
    files = Lookup(['0.jpg', '0.png', '1_x.png'], ('.jpg', '.png'))
    assert files.find_written('0.png') == '0.png'
    assert files.find_written('0') == '0.jpg'
    assert Lookup(['1_x.png'], '_x.png').find_written('1_x') == '1_x.png'


def test_a_split_that_the_layout_does_not_have(pairs):
    with pytest.raises(UserError, match="does not take split='val'"):
        GTA5Dataset(data_root=str(pairs), split='val')


def test_ignored_pixels_are_255(pairs):
    with pytest.raises(UserError, match='ignore_index=0'):
        GTA5Dataset(data_root=str(pairs), ignore_index=0)


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(metainfo=dict(classes=('road'))), "'road' is a str, not a list"),
        (dict(metainfo=dict(classes=['a', 'a'])), 'has twice: a'),
        (dict(metainfo=dict(classes=['a', 3])), 'has the entry 3, a int'),
        (dict(img_suffix=['.png', 1]), 'img_suffix has the entry 1'),
        (dict(img_suffix=['']), 'img_suffix'),
        (dict(skip=3), 'skip=3 is a int'),
        (dict(ignored='255'), "ignored='255'"),
        (dict(ids=[0, 1]), r'ids=\[0, 1\]'),
        (
            dict(metainfo=dict(classes=['a', 'b'], palette=[[0, 0, 0]])),
            'palette has 1 colours for 2 classes',
        ),
        (
            dict(metainfo=dict(classes=['a'], palette=[[0, 0, 256]])),
            r'palette\[0\]=\[0, 0, 256\] is no colour',
        ),
        (
            dict(metainfo=dict(classes=['a'], palette=['red'])),
            r"palette\[0\]='red' is no colour",
        ),
    ],
)
def test_options_of_another_type(pairs, options, message):
    with pytest.raises(UserError, match=message):
        make(pairs, **options)


def test_classes_that_the_table_does_not_know(pairs):
    with pytest.raises(UserError, match="'cars'; perhaps 'car'"):
        GTA5Dataset(data_root=str(pairs), metainfo=dict(classes=['cars']))
