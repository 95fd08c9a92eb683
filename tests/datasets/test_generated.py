import shutil
from pathlib import Path

import numpy as np
import pytest
from mmengine.dataset import ConcatDataset, pseudo_collate
from mmseg.registry import DATASETS

from clouds_mmseg.datasets import DataError, GeneratedDataset, GTA5Dataset
from clouds_mmseg.generate.run import generate_images
from clouds_mmseg.utils import image_set
from clouds_mmseg.utils.errors import UserError

PIPELINE = [
    dict(type='LoadSegImage'),
    dict(type='KeepCleanView'),
    dict(type='RandomFlip', prob=1.0),
    dict(type='PhotoMetricDistortion'),
    dict(type='PackDGInputs'),
]


@pytest.fixture(scope='module')
def made(tmp_path_factory):
    root = tmp_path_factory.mktemp('generated')
    prompts = root / 'prompts.txt'
    prompts.write_text('a road in fog\nnight\n')
    generate_images(
        root / 'bank', prompts=prompts, num=7, size=(48, 32), keep_labels=True
    )
    return root / 'bank'


@pytest.fixture
def bank(made, tmp_path):
    return Path(shutil.copytree(made, tmp_path / 'bank'))


def build(bank, **options):
    return GeneratedDataset(bank=str(bank), **options)


def test_the_manifest_is_read_once(bank, monkeypatch):
    read = []
    get = image_set.fileio.get
    monkeypatch.setattr(
        image_set.fileio, 'get', lambda path: read.append(path) or get(path)
    )
    assert len(build(bank)) == 7
    assert [Path(path).name for path in read].count('manifest.jsonl') == 1


def test_samples_have_a_view_for_each_and_no_label(bank):
    dataset = DATASETS.build(
        dict(type='GeneratedDataset', bank=str(bank), pipeline=PIPELINE)
    )
    assert len(dataset) == 7
    info = dataset.get_data_info(1)
    assert info['domain'] == 'generated' and info['prompt'] == 'night'
    assert info['img_path'].endswith('images/000001.png')
    assert 'seg_map_path' not in info
    np.random.seed(0)
    packed = dataset[0]
    sample = packed['data_samples']
    assert sample.domain == 'generated' and sample.flip
    assert 'gt_sem_seg' not in sample
    assert packed['inputs'].shape == sample.clean_img.data.shape == (3, 32, 48)
    # It collates and survives a move to a device.
    batch = pseudo_collate([packed, dataset[1]])
    assert (
        batch['data_samples'][1].to('cpu').clean_img.data.dtype.is_signed
        is False
    )


def test_it_joins_labelled_datasets(bank, tmp_path):
    from PIL import Image

    for folder, value in (('images', (9, 9, 9)), ('labels', 7)):
        path = tmp_path / 'gta5' / folder / '00001.png'
        path.parent.mkdir(parents=True)
        mode = 'RGB' if folder == 'images' else 'L'
        Image.new(mode, (48, 32), value).save(path)
    source = GTA5Dataset(
        data_root=str(tmp_path / 'gta5'),
        pipeline=[
            dict(type='LoadSegImage'),
            dict(type='LoadSegLabels'),
            dict(type='PackDGInputs'),
        ],
    )
    both = ConcatDataset([source, build(bank, pipeline=PIPELINE)])
    assert len(both) == 8
    domains = [both[i]['data_samples'].domain for i in (0, 1)]
    assert domains == ['gta5', 'generated']


def test_labels_for_evaluation_only_on_request(bank):
    dataset = build(
        bank,
        evaluation_labels=True,
        pipeline=[
            dict(type='LoadSegImage'),
            dict(type='LoadSegLabels'),
            dict(type='PackDGInputs'),
        ],
    )
    label = dataset[3]['data_samples'].gt_sem_seg.data
    assert label.shape == (1, 32, 48) and label.max() < 19
    (bank / 'labels_for_evaluation/000004.png').unlink()
    with pytest.raises(DataError, match='1 images .* no label') as caught:
        build(bank, evaluation_labels=True)
    assert '000004.png' in str(caught.value)
    assert len(build(bank)) == 7


def test_missing_and_damaged_files_are_named(bank):
    images = bank / 'images'
    (images / '000000.png').unlink()
    cut = (images / '000002.png').read_bytes()[:-9]
    (images / '000002.png').write_bytes(cut)
    changed = bytearray((images / '000005.png').read_bytes())
    changed[-20] ^= 1
    (images / '000005.png').write_bytes(changed)
    with pytest.raises(DataError) as caught:
        build(bank)
    message = str(caught.value)
    assert '3 images' in message and str(bank) in message
    assert '000000.png: missing' in message
    assert f'000002.png: has {len(cut)} bytes' in message
    assert '000005.png: its hash differs' in message
    assert '--verify' in message
    with pytest.raises(DataError, match='2 images'):
        build(bank, verify_hash=False)


def test_long_lists_are_cut(bank):
    for path in (bank / 'images').iterdir():
        path.unlink()
    with pytest.raises(DataError, match='and 2 more'):
        build(bank)


def test_size_is_checked(bank):
    assert len(build(bank, size=(48, 32))) == 7
    with pytest.raises(DataError, match='are not 64x32') as caught:
        build(bank, size=[64, 32])
    assert '000000.png: 48x32' in str(caught.value)
    assert '--size 64x32' in str(caught.value)


def test_no_bank_and_an_empty_one(tmp_path, bank):
    with pytest.raises(DataError, match='does not exist') as caught:
        build(tmp_path / 'none')
    assert 'clouds generate ' in str(caught.value)
    (tmp_path / 'folder').mkdir()
    with pytest.raises(DataError, match=r'holds no bank\.json'):
        build(tmp_path / 'folder')
    (bank / 'manifest.jsonl').unlink()
    with pytest.raises(DataError, match='is empty'):
        build(bank)


def test_an_unfinished_bank_is_used_with_a_warning(bank, monkeypatch):
    from clouds_mmseg.datasets import generated

    logged = []
    monkeypatch.setattr(
        generated, 'print_log', lambda text, **_: logged.append(text)
    )
    lines = (bank / 'manifest.jsonl').read_text().splitlines(keepends=True)
    (bank / 'manifest.jsonl').write_text(''.join(lines[:5]))
    assert len(build(bank)) == 5
    assert '5 of 7 images' in logged[0]


def test_the_data_root_can_be_moved(bank, monkeypatch):
    monkeypatch.setenv('CLOUDS_DATA_ROOT', str(bank.parent))
    assert len(build('data/bank')) == 7


def test_arguments_that_it_does_not_take(bank):
    with pytest.raises(UserError, match='bank=..., not data_root='):
        build(bank, data_root='data/x')
