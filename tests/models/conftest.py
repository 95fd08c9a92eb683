"""Tiny models of open_clip, real in everything but their size."""

import json

import open_clip
import pytest
import torch

TEXT = {
    'context_length': 8,
    'vocab_size': 49408,
    'width': 64,
    'heads': 1,
    'layers': 2,
}
TIMM = {'timm_pool': '', 'timm_proj': 'mlp', 'image_size': 64}
CONFIGS = {
    'tiny-rn': {
        'layers': [1, 2, 1, 1],
        'width': 16,
        'head_width': 64,
        'image_size': 64,
    },
    'tiny-convnext': {'timm_model_name': 'test_convnext', **TIMM},
    'tiny-efficientnet': {'timm_model_name': 'test_efficientnet', **TIMM},
    'tiny-vit': {
        'layers': 4,
        'width': 64,
        'patch_size': 16,
        'image_size': 64,
    },
}


@pytest.fixture(scope='session', autouse=True)
def tiny_models(tmp_path_factory):
    """Add the tiny models to those that open_clip knows."""
    folder = tmp_path_factory.mktemp('open_clip_configs')
    for name, vision in CONFIGS.items():
        for suffix, more in (('', {}), ('-custom', {'custom_text': True})):
            content = {
                'embed_dim': 24,
                'vision_cfg': vision,
                'text_cfg': TEXT,
                **more,
            }
            path = folder / f'{name}{suffix}.json'
            path.write_text(json.dumps(content))
    open_clip.add_model_config(folder)


@pytest.fixture
def tiny_clip():
    """Build a tiny CLIP model whose batch norms have seen something."""

    def build(name, **kwargs):
        torch.manual_seed(0)
        model = open_clip.create_model(name, **kwargs)
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.running_mean.normal_()
                module.running_var.uniform_(0.5, 2)
                module.weight.data.uniform_(0.5, 2)
        return model.eval()

    return build
