"""A model with random weights and a teacher, and images to predict."""

import pytest
import torch
from mmengine.registry import init_default_scope
from mmseg.registry import MODELS
from tiny_run import CLASSES, PALETTE, read_config, write_config, write_data

from clouds_mmseg import Segmenter


@pytest.fixture(scope='session')
def review_data(tmp_path_factory):
    return write_data(tmp_path_factory.mktemp('review_data'))


@pytest.fixture(scope='session')
def review_checkpoint(tmp_path_factory, review_data):
    """Checkpoint of self-training, with its config."""
    folder = tmp_path_factory.mktemp('review')
    write_config(folder / 'tiny.py', review_data)
    cfg = read_config(folder / 'tiny.py', folder)
    init_default_scope('mmseg')
    torch.manual_seed(0)
    model = MODELS.build(cfg.model)
    weights = model.state_dict()
    # Of the three classes, each is predicted somewhere.
    weights['decode_head.conv_seg.weight'].normal_(0, 3)
    teacher = {
        f'teacher.module.{key}': value.clone()
        for key, value in weights.items()
        if key.startswith('decode_head.')
    }
    key = 'teacher.module.decode_head.conv_seg.weight'
    teacher[key] = -teacher[key]
    teacher['teacher.steps'] = torch.tensor(3)
    meta = dict(
        cfg=cfg.pretty_text,
        dataset_meta=dict(classes=CLASSES, palette=PALETTE),
    )
    path = folder / 'tiny.pth'
    torch.save(dict(meta=meta, state_dict=weights | teacher), path)
    return path


@pytest.fixture(scope='session')
def reviewer(review_checkpoint):
    return Segmenter.from_pretrained(review_checkpoint, device='cpu')


@pytest.fixture
def images(review_data):
    return review_data / 'day_train' / 'images'


@pytest.fixture
def labels(review_data):
    return review_data / 'day_train' / 'labels'


@pytest.fixture
def export(review_checkpoint, images, tmp_path):
    """Run ``clouds review export``; returns the folder."""
    from clouds_mmseg_cli.command import main

    def run(tool, *words, out='out'):
        folder = tmp_path / out
        common = ('--to', tool, '--out', folder, '--device', 'cpu')
        command = ('review', 'export', review_checkpoint, images)
        main([str(word) for word in (*command, *common, *words)])
        return folder

    return run
