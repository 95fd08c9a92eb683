"""Checkpoints of other projects, made from their recorded names."""

import json

import pytest
import torch
from safetensors import safe_open


@pytest.fixture(scope='session')
def official(reference_dir):
    """Read a manifest as weights: one random number each, no storage."""

    def read(name):
        path = reference_dir / f'{name}_keys.json'
        generator = torch.Generator().manual_seed(0)
        return {
            key: torch.tensor(7)
            if key.endswith('num_batches_tracked')
            else torch.rand((), generator=generator).expand(shape)
            for key, shape in json.loads(path.read_text()).items()
        }

    return read


@pytest.fixture(scope='session')
def tiny_head(reference_dir):
    """Weights of a small official head: ``read('linear')``, ``'text'``."""

    def read(kind):
        path = reference_dir / f'clouds_official_head_{kind}_tiny.safetensors'
        with safe_open(path, 'pt') as file:
            return {
                key.removeprefix('state.'): file.get_tensor(key)
                for key in file.keys()
                if key.startswith('state.')
            }

    return read


@pytest.fixture(scope='session')
def text_official(official, tiny_head):
    """A whole checkpoint with the text classifier, under CLIP's RN50."""
    weights = {
        key: value
        for key, value in official('clouds_official_rn50').items()
        if not key.startswith(('sem_seg_head.', 'void_embedding.'))
    }
    head = tiny_head('text')
    weights.update(head)
    size = head['sem_seg_head.predictor.class_embed.layers.2.bias'].shape[0]
    weights['void_embedding.weight'] = torch.rand(1, size)
    return weights
