"""What the first open of a dataset finds out."""

import logging
from pathlib import Path

import pytest
from mmengine.logging import MMLogger

from clouds_mmseg.datasets import (
    ACDCDataset,
    CityscapesDGDataset,
    DataError,
    DGDataset,
    FolderDataset,
    GTA5Dataset,
)
from clouds_mmseg.utils.errors import UserError


def message(cls=GTA5Dataset, **kwargs):
    """Build a dataset that cannot be opened; return its message."""
    with pytest.raises(DataError) as caught:
        cls(**kwargs)
    return str(caught.value)


@pytest.fixture
def warnings(caplog):
    """Text of the warnings, which mmengine's logger does not propagate."""
    logger = MMLogger.get_current_instance()
    logger.addHandler(caplog.handler)
    yield lambda: '\n'.join(
        r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING
    )
    logger.removeHandler(caplog.handler)


def test_is_shown_without_traceback():
    assert issubclass(DataError, UserError)


def test_missing_root_says_what_was_expected_and_how_to_move_it():
    text = message(data_root='nowhere/gta5')
    assert 'data root nowhere/gta5 does not exist' in text
    assert 'nowhere/gta5/images/**/*.png' in text
    assert 'nowhere/gta5/labels/**/*.png' in text
    assert 'CLOUDS_DATA_ROOT' in text


def test_empty_root(tmp_path):
    text = message(data_root=str(tmp_path))
    assert f'image folder {tmp_path}/images does not exist' in text


def test_empty_image_folder(tmp_path):
    (tmp_path / 'images').mkdir()
    (tmp_path / 'labels').mkdir()
    text = message(data_root=str(tmp_path))
    assert f'found no image *.png in {tmp_path}/images' in text


def test_missing_label_folder(pairs):
    (pairs / 'labels').rename(pairs / 'Labels')
    assert 'label folder' in message(data_root=str(pairs))


def test_missing_labels_are_named_and_counted(pairs, files):
    for number in range(10, 17):
        files.image(pairs / f'images/000{number}.png')
    text = message(data_root=str(pairs))
    assert '7 of 10 images lack their label file' in text
    assert f'{pairs}/labels/00010.png' in text
    assert f'{pairs}/labels/00014.png' in text
    assert '00015.png' not in text
    assert 'and 2 more' in text


def test_published_cityscapes_labels_name_the_converter(tmp_path, files):
    files.image(tmp_path / 'leftImg8bit/val/bonn/bonn_1_leftImg8bit.png')
    ids = tmp_path / 'gtFine/val/bonn/bonn_1_gtFine_labelIds.png'
    files.label(ids, files.label_of([7]))
    text = message(CityscapesDGDataset, data_root=str(tmp_path))
    assert str(ids) in text
    assert 'clouds prepare cityscapes --src' in text
    ids.unlink()
    text = message(CityscapesDGDataset, data_root=str(tmp_path))
    assert 'lack their label' in text
    assert 'clouds prepare cityscapes --src' not in text


def test_count_is_compared_with_the_official_one(pairs, warnings):
    GTA5Dataset(data_root=str(pairs), expected=3)
    GTA5Dataset(data_root=str(pairs))
    assert warnings() == ''
    GTA5Dataset(data_root=str(pairs), expected=24966)
    assert 'holds 3 images, the official set has 24966' in warnings()


@pytest.mark.parametrize(
    'entry', ['00001.png', '00001', 'sub/00001.png', 'sub/00001']
)
def test_skip_list(pairs, files, entry):
    if 'sub' in entry:
        for kind in ('images', 'labels'):
            (pairs / kind / 'sub').mkdir()
            (pairs / kind / '00001.png').rename(pairs / kind / 'sub/00001.png')
    dataset = GTA5Dataset(data_root=str(pairs), skip=[entry])
    assert len(dataset) == 2
    names = [Path(dataset.get_data_info(i)['img_path']).name for i in (0, 1)]
    assert names == ['00000.png', '00002.png']


def test_skip_file(pairs, tmp_path):
    listing = tmp_path / 'skip.txt'
    listing.write_text('00000\n\n00002.png\n')
    dataset = GTA5Dataset(data_root=str(pairs), skip=str(listing), expected=3)
    assert len(dataset) == 1
    assert 'skip list' in message(
        data_root=str(pairs), skip=str(tmp_path / 'none.txt')
    )
    assert 'skip names every image' in message(
        data_root=str(pairs), skip=['00000', '00001', '00002']
    )


def test_lists_lie_below_the_data_root_too(pairs, tmp_path, monkeypatch):
    (pairs / 'skip.txt').write_text('00000\n')
    (pairs / 'names.json').write_text('{"road": 0, "sky": [1, 2, 3]}')
    (pairs / 'some.txt').write_text('00000\n00001\n')
    root = dict(data_root=str(pairs), ann_file='some.txt', skip='skip.txt')
    assert len(GTA5Dataset(**root)) == 1
    mine = dict(domain='mine', metainfo=dict(classes=['road', 'sky']))
    dataset = FolderDataset(**root, **mine, names='names.json')
    assert len(dataset) == 1 and dataset.label_table[3] == 1
    # What is meant from the working folder comes first.
    monkeypatch.chdir(tmp_path)
    Path('skip.txt').write_text('00000\n00001\n')
    assert 'skip names every image' in message(**root)


def test_a_skipped_image_needs_no_label(pairs):
    (pairs / 'labels/00001.png').unlink()
    assert len(GTA5Dataset(data_root=str(pairs), skip=['00001'])) == 2


def test_ann_file(pairs):
    (pairs / 'train.txt').write_text('00000\n00002\n')
    dataset = GTA5Dataset(data_root=str(pairs), ann_file='train.txt')
    assert len(dataset) == 2
    (pairs / 'train.txt').write_text('00000\n00009\n')
    text = message(data_root=str(pairs), ann_file='train.txt')
    assert '1 of 2 images lack their image file' in text
    assert 'images/00009.png' in text
    text = message(data_root=str(pairs), ann_file='val.txt')
    assert 'ann_file' in text and 'val.txt does not exist' in text


def test_one_variable_moves_all_data_roots(pairs, monkeypatch):
    monkeypatch.setenv('CLOUDS_DATA_ROOT', str(pairs.parent))
    dataset = GTA5Dataset(data_root=f'data/{pairs.name}')
    assert dataset.data_root == str(pairs)
    assert len(dataset) == 3
    # A root that does not begin with data/ was chosen by hand.
    assert GTA5Dataset(data_root=str(pairs)).data_root == str(pairs)
    text = message(data_root='datasets/gta5')
    assert 'data root datasets/gta5 ' in text


def test_images_without_labels(pairs):
    dataset = DGDataset(
        domain='web',
        data_root=str(pairs),
        data_prefix=dict(img_path='images'),
    )
    assert 'seg_map_path' not in dataset.get_data_info(0)
    assert dataset.get_data_info(0)['domain'] == 'web'


def test_domain_is_required_and_can_be_overridden(pairs):
    with pytest.raises(UserError, match='needs domain='):
        DGDataset(data_root=str(pairs))
    dataset = GTA5Dataset(data_root=str(pairs), domain='toycity_source')
    assert dataset.domain == 'toycity_source'
    assert dataset.get_data_info(-1)['domain'] == 'toycity_source'


def test_zero_label_cannot_be_reduced(pairs):
    with pytest.raises(UserError, match='reduce_zero_label'):
        GTA5Dataset(data_root=str(pairs), reduce_zero_label=True)


def test_subset_of_classes_goes_into_the_table(pairs):
    dataset = GTA5Dataset(
        data_root=str(pairs), metainfo=dict(classes=('car', 'road'))
    )
    table = dataset.get_data_info(0)['label_table']
    assert table[26] == 0 and table[7] == 1
    assert table[8] == 255 and table[0] == 255
    assert table[35] == 254


def test_custom_folder_and_split(tmp_path, files):
    files.image(tmp_path / 'rgb_anon/fog/train/s/1_rgb_anon.png')
    files.label(
        tmp_path / 'gt/fog/train/s/1_gt_labelTrainIds.png',
        files.label_of([1]),
    )
    dataset = ACDCDataset(
        condition='fog', split='train', data_root=str(tmp_path)
    )
    assert len(dataset) == 1


class TestFolder:
    def make(self, root, **kwargs):
        metainfo = dict(classes=['a', 'b'], palette=[(0, 0, 0), (1, 2, 3)])
        kwargs = dict(metainfo=metainfo, domain='mine') | kwargs
        return FolderDataset(data_root=str(root), **kwargs)

    def test_default_ids(self, pairs):
        table = self.make(pairs).get_data_info(0)['label_table']
        assert table[:3].tolist() == [0, 1, 254]
        assert table[255] == 255

    def test_own_ids(self, pairs):
        dataset = self.make(pairs, ids={7: 0, 8: 0, 26: 1}, ignored=[0])
        table = dataset.get_data_info(0)['label_table']
        assert table[[7, 8, 26, 0, 255, 1]].tolist() == [
            0,
            0,
            1,
            255,
            255,
            254,
        ]
        # 255 may be a class.
        table = self.make(pairs, ids={255: 1}).label_table
        assert table[255] == 1

    def test_metainfo_has_uniform_types(self, pairs):
        assert self.make(pairs).metainfo == dict(
            classes=('a', 'b'),
            palette=[[0, 0, 0], [1, 2, 3]],
            label_map=None,
            reduce_zero_label=False,
        )

    def test_wrong_arguments(self, pairs):
        with pytest.raises(UserError, match='needs metainfo'):
            self.make(pairs, metainfo=None)
        with pytest.raises(UserError, match='point outside its 2 classes'):
            self.make(pairs, ids={0: 0, 1: 2})
        with pytest.raises(UserError, match='needs domain'):
            self.make(pairs, domain=None)
