"""The named pieces compose, and read the layouts they are written for."""

import numpy as np
import pytest
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmseg.registry import DATASETS

from clouds_mmseg.datasets.driving import SETS

TOYCITY = {
    'toycity/source': 'images/00001.png labels/00001.png',
    'toycity/source_val': 'images/00001.png labels/00001.png',
    'toycity/clear': (
        'leftImg8bit/val/toyville/toyville_000000_leftImg8bit.png '
        'gtFine/val/toyville/toyville_000000_gtFine_labelTrainIds.png'
    ),
}
for _name in ('fog', 'night', 'rain', 'snow'):
    TOYCITY[f'toycity/acdc/{_name}'] = (
        f'rgb_anon/{_name}/val/GOPR0001/1_rgb_anon.png '
        f'gt/{_name}/val/GOPR0001/1_gt_labelTrainIds.png'
    )


@pytest.fixture
def compose(repo_root, tmp_path):
    """Write a benchmark that inherits pieces, and read it."""
    folder = (repo_root / 'configs/_base_/datasets').as_posix()

    def read(bases, text):
        bases = [f'{folder}/{base}.py' for base in bases]
        path = tmp_path / 'benchmark.py'
        path.write_text(f'_base_ = {bases}\n{text}')
        return Config.fromfile(path)

    return read


def test_all_pieces_can_be_inherited_together(compose, repo_root):
    names = sorted(
        path.stem
        for path in (repo_root / 'configs/_base_/datasets').glob('*.py')
    )
    cfg = compose(names, '')
    pieces = {
        key: value
        for key, value in cfg.items()
        if key.startswith(('train_', 'val_')) and 'pipeline' in value
    }
    domains = set()
    for key, piece in pieces.items():
        root = piece.get('data_root') or piece.bank
        assert root.startswith('data/'), key
        # Without its steps, one of which reads a bank.
        dataset = DATASETS.build(dict(piece, pipeline=[], lazy_init=True))
        domains.add(dataset.domain)
        # A file of its own name for each domain: train_gta5 -> gta5.
        other = dict(
            train_generated_toycity='generated',
            val_generated_toycity='generated',
            train_restyled_toycity='toycity_source',
            val_restyled_toycity='toycity_source_restyled',
            train_restyled_camvid='camvid_day',
            train_generated_camvid='generated',
        )
        name = key.split('_', 1)[1]
        assert dataset.domain == other.get(key, name)
    # Every published set, and ours.
    published = {name for name in SETS if name != 'acdc'}
    assert domains == {
        *published,
        *'acdc_fog acdc_night acdc_rain acdc_snow'.split(),
        *'toycity_source toycity_clear toycity_fog'.split(),
        *'toycity_night toycity_rain toycity_snow'.split(),
        *'camvid_day camvid_dusk generated'.split(),
        'toycity_source_restyled',
    }


def test_pieces_expect_the_published_numbers(compose):
    cfg = compose(SETS, '')
    pieces = {k: v for k, v in cfg.items() if 'expected' in v}
    for key, piece in pieces.items():
        facts = DATASETS.get(piece.type).FACTS
        images = facts.conditions.get(piece.get('condition'), facts.images)
        split = piece.get('split') or facts.only_split
        assert piece.expected == images[split], key
        assert piece.data_root == f'data/{facts.name}', key
    assert {DATASETS.get(p.type).FACTS.name for p in pieces.values()} == {
        *SETS
    }


def test_toycity_pieces_join_and_read(compose, tmp_path, files, monkeypatch):
    for root, pair in TOYCITY.items():
        image, label = pair.split()
        root = tmp_path / 'sets' / root
        if root.parent.name == 'acdc':
            root = root.parent
        files.image(root / image, 128, 256)
        # 7 is road for GTA5's label ids, traffic sign for train ids.
        files.label(root / label, np.full((128, 256), 7))
    monkeypatch.setenv('CLOUDS_DATA_ROOT', str(tmp_path / 'sets'))
    cfg = compose(
        ['toycity'],
        """
train = {{_base_.train_toycity_source}}
val = dict(
    type='ConcatDataset',
    datasets=[
        {{_base_.val_toycity_source}},
        {{_base_.val_toycity_clear}},
        {{_base_.val_toycity_fog}},
        {{_base_.val_toycity_night}},
        {{_base_.val_toycity_rain}},
        {{_base_.val_toycity_snow}},
    ],
)
""",
    )
    val = DATASETS.build(cfg.val)
    batch = pseudo_collate([val[i] for i in range(len(val))])
    found = {
        s.domain: s.gt_sem_seg.data.unique().tolist()
        for s in batch['data_samples']
    }
    assert found == dict(
        toycity_source=[0],
        toycity_clear=[7],
        toycity_fog=[7],
        toycity_night=[7],
        toycity_rain=[7],
        toycity_snow=[7],
    )
    item = DATASETS.build(cfg.train)[0]
    assert item['inputs'].shape[0] == 3
    assert item['data_samples'].domain == 'toycity_source'


def test_camvid_root_from_the_environment(compose, camvid_dir, monkeypatch):
    text = 'piece = {{_base_.val_camvid_dusk}}'
    monkeypatch.delenv('CAMVID_ROOT', raising=False)
    assert compose(['camvid'], text).piece.data_root == 'data/camvid_mini'
    monkeypatch.setenv('CAMVID_ROOT', str(camvid_dir))
    cfg = compose(['camvid'], text)
    dataset = DATASETS.build(cfg.piece)
    assert len(dataset) == 12
    assert len(dataset.metainfo['classes']) == 11
    sample = dataset[0]['data_samples']
    assert sample.gt_sem_seg.shape == (360, 480)
    values = set(sample.gt_sem_seg.data.unique().tolist())
    assert values <= {*range(11), 255} and 255 in values
