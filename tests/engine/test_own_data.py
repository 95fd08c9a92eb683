"""From folders and names to a trained and tested model."""

import json
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from mmengine.config import Config
from mmseg.registry import RUNNERS
from PIL import Image
from tiny_run import read_config

from clouds_mmseg.engine.run_state import unwrap_model
from clouds_mmseg.utils.errors import UserError

TEXT = dict(context_length=8, vocab_size=49408, width=64, heads=1, layers=1)
VISION = dict(layers=[1, 1, 1, 1], width=16, head_width=64, image_size=64)


@pytest.fixture
def data(tmp_path, monkeypatch):
    """Two days and a night in the layout and ids of the template."""
    rng = np.random.default_rng(0)
    colours = rng.integers(0, 256, (7, 3))
    for domain, count in (('day', 2), ('night', 1)):
        for index in range(count):
            label = np.full((48, 64), 6, np.uint8)
            label[20:] = 1
            label[30:34] = 2
            label[18:30, 10:30] = 3
            label[:20, 40:50] = 4
            label[:2] = 0
            image = colours[label] + rng.integers(-9, 9, (48, 64, 3))
            for kind, pixels in (
                ('images', image.clip(0, 255).astype(np.uint8)),
                ('labels', label),
            ):
                folder = tmp_path / 'disk/my_dataset' / domain / kind
                folder.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).save(folder / f'{index}.png')
    monkeypatch.setenv('CLOUDS_DATA_ROOT', str(tmp_path / 'disk'))
    return tmp_path


@pytest.fixture(scope='module')
def tiny_tower(tmp_path_factory):
    folder = tmp_path_factory.mktemp('towers')
    content = dict(embed_dim=24, vision_cfg=VISION, text_cfg=TEXT)
    (folder / 'tiny-own.json').write_text(json.dumps(content))
    open_clip.add_model_config(folder)
    return 'tiny-own'


def config_of(repo_root, name, work_dir, **changes):
    """The template at a size of seconds."""
    cfg = read_config(
        repo_root / 'configs/custom' / name,
        work_dir,
        **dict(
            train_cfg__max_iters=2,
            train_cfg__val_interval=2,
            total_batch_size=1,
            model__data_preprocessor__size=(64, 64),
            model__decode_head__num_queries=6,
            model__decode_head__loss__num_points=64,
            **changes,
        ),
    )
    steps = cfg.train_dataloader.dataset.pipeline
    steps[2].scale, steps[3].crop_size = (256, 48), (64, 64)
    for loader in ('train', 'val', 'test'):
        cfg[f'{loader}_dataloader'].num_workers = 0
        cfg[f'{loader}_dataloader'].persistent_workers = False
    return cfg


def train(cfg):
    runner = RUNNERS.build(cfg)
    runner.train()
    head = unwrap_model(runner.model).decode_head
    results = Path(runner.work_dir, 'results.json').read_text()
    return head, json.loads(results)


def test_linear_classifier(data, repo_root):
    cfg = config_of(repo_root, 'my_dataset.py', data / 'work')
    head, results = train(cfg)
    assert head.num_classes == 3
    assert results['iteration'] == 2
    assert list(results['domains']) == ['night']
    confusion = np.array(results['domains']['night']['confusion'])
    # road with its markings, the car, house and tree and sky; void ignored.
    assert confusion.sum(1).tolist() == [1592, 240, 1112]
    assert (data / 'work/last_checkpoint').is_file()


def test_synonyms_reach_the_text_classifier(data, repo_root, tiny_tower):
    prefix = 'model__decode_head__classifier__text_embeddings__'
    cfg = config_of(
        repo_root,
        'my_dataset_text.py',
        data / 'work',
        **{
            f'{prefix}model_name': tiny_tower,
            f'{prefix}pretrained': None,
            f'{prefix}templates': ['a {}.'],
        },
    )
    words = cfg.model.decode_head.classifier.text_embeddings.classes
    assert words[1] == ['car', 'van', 'taxi']
    torch.manual_seed(0)
    head, results = train(cfg)
    assert head.cls_embed.num_synonyms == [2, 3, 3]
    assert head.cls_embed.text_embeddings.shape == (8, 24)
    assert results['iteration'] == 2


def test_the_template_is_short(repo_root):
    path = repo_root / 'configs/custom/my_dataset.py'
    lines = [
        line
        for line in path.read_text().splitlines()
        if line.strip() and not line.lstrip().startswith('#')
    ]
    assert len(lines) < 40
    assert Config.fromfile(path).model.decode_head.num_classes == 3


def test_a_wrong_name_stops_before_training(data, repo_root):
    cfg = config_of(repo_root, 'my_dataset.py', data / 'work')
    cfg.train_dataloader.dataset.label_map = dict(road=['road', 'markings'])
    with pytest.raises(UserError, match="'markings'; perhaps 'marking'"):
        RUNNERS.build(cfg).train()
