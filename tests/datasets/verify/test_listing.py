"""Which files belong together, and which are left alone."""

import os

import numpy as np
import pytest

from clouds_mmseg.data_tools.verify.listing import list_files, set_key
from clouds_mmseg.datasets import (
    ACDCDataset,
    DataError,
    FolderDataset,
    GTA5Dataset,
)


def gta(root, **kwargs):
    return GTA5Dataset(data_root=str(root), lazy_init=True, **kwargs)


def kinds(listing):
    return [(f.kind, f.file) for f in listing.findings]


def test_pairs_both_ways(pairs, files):
    (pairs / 'labels/00000.png').unlink()
    (pairs / 'images/00002.png').unlink()
    listing = list_files(gta(pairs))
    assert [(p.image, p.label) for p in listing.pairs] == [
        ('images/00001.png', 'labels/00001.png')
    ]
    assert kinds(listing) == [
        ('no_label', 'images/00000.png'),
        ('orphan', 'labels/00002.png'),
    ]
    assert listing.found == 2


def test_skipped_images_are_not_read_and_their_labels_no_orphans(pairs):
    listing = list_files(gta(pairs, skip=['00001']))
    assert [p.image for p in listing.pairs] == [
        'images/00000.png',
        'images/00002.png',
    ]
    assert listing.findings == [] and listing.found == 3


def test_what_was_set_aside_is_out_of_the_way(pairs):
    aside = pairs / 'quarantine/images'
    aside.mkdir(parents=True)
    (pairs / 'images/00001.png').rename(aside / '00001.png')
    (pairs / 'clouds_skip.txt').write_text(
        'images/00001.png\nlabels/00001.png\n'
    )
    listing = list_files(gta(pairs))
    assert len(listing.pairs) == 2 and listing.findings == []
    assert listing.set_aside == 1
    # A whole folder as the image folder: the quarantine lies inside.
    flat = FolderDataset(
        data_root=str(pairs),
        data_prefix=dict(img_path=''),
        metainfo=dict(classes=['a']),
        domain='flat',
        lazy_init=True,
    )
    listing = list_files(flat)
    assert not any('quarantine' in p.image for p in listing.pairs)
    # labels/00001.png is named in the list as well.
    assert (len(listing.pairs), listing.set_aside) == (4, 1)


def test_datasets_skip_what_was_set_aside(pairs):
    (pairs / 'clouds_skip.txt').write_text('images/00001.png\n')
    assert len(GTA5Dataset(data_root=str(pairs))) == 2
    (pairs / 'clouds_skip.txt').write_text(
        ''.join(f'images/{n:05d}.png\n' for n in range(3))
    )
    with pytest.raises(DataError, match='skip names every image'):
        GTA5Dataset(data_root=str(pairs))


def test_a_list_of_images(pairs):
    (pairs / 'some.txt').write_text('00000\n00009\n')
    listing = list_files(gta(pairs, ann_file='some.txt'))
    # Labels that the list leaves out are no orphans.
    assert kinds(listing) == [('no_image', 'images/00009.png')]
    assert [p.image for p in listing.pairs] == ['images/00000.png']


def test_missing_folders_say_what_is_expected(tmp_path):
    with pytest.raises(DataError, match=r'data root .* does not exist'):
        list_files(gta(tmp_path / 'away'))


def test_other_suffixes_do_not_pair(tmp_path, files):
    root = tmp_path / 'acdc'
    image = root / 'rgb_anon/fog/val/s/1_rgb_anon.png'
    files.image(image)
    files.image(image.with_name('1_other.png'))
    files.label(
        root / 'gt/fog/val/s/1_gt_labelTrainIds.png', files.label_of([1])
    )
    files.label(root / 'gt/fog/val/s/1_gt_labelIds.png', files.label_of([1]))
    dataset = ACDCDataset(condition='fog', data_root=str(root), lazy_init=True)
    listing = list_files(dataset)
    assert len(listing.pairs) == 1 and listing.findings == []
    other = ACDCDataset(condition='rain', data_root=str(root), lazy_init=True)
    assert set_key(dataset) != set_key(other)


def test_keys_tell_tables_and_folders_apart(pairs):
    def folder(**kwargs):
        return set_key(
            FolderDataset(
                data_root=str(pairs),
                metainfo=dict(classes=['a', 'b']),
                domain='x',
                lazy_init=True,
                **kwargs,
            )
        )

    prefix = dict(img_path='images')
    keys = {
        folder(),
        folder(ids={7: 0}),
        folder(data_prefix=prefix),
        folder(img_suffix='.jpg'),
        folder(ann_file='some.txt'),
    }
    assert len(keys) == 5
    assert folder() == folder()
    # A choice of classes is read from the same files by the same rule.
    some = gta(pairs, metainfo=dict(classes=('car', 'road')))
    assert set_key(some) == set_key(gta(pairs))


def test_the_root_of_files_outside_of_the_data_root(tmp_path, pairs, files):
    def root(**kwargs):
        return FolderDataset(
            metainfo=dict(classes=['a']),
            domain='x',
            lazy_init=True,
            **kwargs,
        ).files_root

    assert root(data_root=str(pairs)) == str(pairs)
    folders = dict(
        img_path=str(tmp_path / 'a/images'), seg_map_path=str(tmp_path / 'b')
    )
    assert root(data_prefix=folders) == str(tmp_path)
    assert root(data_root='', data_prefix=dict(folders)) == str(tmp_path)
    near = dict(img_path='x', seg_map_path='y')
    assert root(data_prefix=near) == os.curdir
    assert (
        root(data_root='/disk/a', data_prefix=dict(img_path='')) == '/disk/a'
    )


def test_odd_names(tmp_path, files):
    name = 'Zürich im Nebel/été 1.png'
    files.image(tmp_path / 'images' / name)
    files.label(tmp_path / 'labels' / name, np.full(files.shape, 7))
    (pair,) = list_files(gta(tmp_path)).pairs
    assert (pair.image, pair.label) == (f'images/{name}', f'labels/{name}')
