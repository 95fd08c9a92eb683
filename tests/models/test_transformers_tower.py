"""Towers of transformers: maps, folders, adapters, bad input."""

import json
import shutil

import pytest
import torch
import torch.nn.functional as F
import transformers
from mmengine.registry import DefaultScope
from mmseg.registry import MODELS
from test_self_training_segmentor import make_config

from clouds_mmseg.engine.optim import LayerDecayConstructor
from clouds_mmseg.models import TransformersTower
from clouds_mmseg.utils.errors import UserError
from clouds_mmseg.weights.io import MissingWeightsError
from clouds_mmseg.weights.load import CheckpointMismatchError

_SMALL = dict(
    hidden_size=32, num_hidden_layers=6, num_attention_heads=2, patch_size=8
)
CONFIGS = {
    'dinov2': dict(_SMALL, image_size=48, mlp_ratio=2),
    'dinov2_with_registers': dict(
        _SMALL, image_size=48, mlp_ratio=2, num_register_tokens=3
    ),
    'dinov3_vit': dict(
        _SMALL, image_size=48, intermediate_size=64, num_register_tokens=2
    ),
    'vit': dict(_SMALL, image_size=48, intermediate_size=64),
}
STATISTICS = dict(
    image_mean=[0.5, 0.25, 0.75],
    image_std=[0.5, 0.5, 0.25],
    rescale_factor=1 / 255,
)


@pytest.fixture(scope='module')
def folders(tmp_path_factory):
    """Saved random models, and the models."""
    root = tmp_path_factory.mktemp('transformers')
    found = {}
    for kind, config in CONFIGS.items():
        torch.manual_seed(0)
        model = transformers.AutoModel.from_config(
            transformers.AutoConfig.for_model(kind, **config)
        ).eval()
        for name, parameter in model.named_parameters():
            if 'lambda' in name:
                # 1e-5 at first, which hides everything.
                parameter.data.fill_(0.5)
        folder = root / kind
        model.save_pretrained(folder)
        (folder / 'preprocessor_config.json').write_text(
            json.dumps(STATISTICS)
        )
        found[kind] = (folder, model)
    return found


@pytest.mark.parametrize('kind', CONFIGS)
def test_maps_are_the_hidden_states(folders, kind):
    folder, model = folders[kind]
    tower = TransformersTower(str(folder))
    assert tower.strides == [4, 8, 16, 32] and tower.channels == [32] * 4
    assert tower.expects == ((127.5, 63.75, 191.25), (127.5, 127.5, 63.75))
    assert not tower.training
    options = {}
    if kind == 'vit':
        options['interpolate_pos_encoding'] = True
    for height, width in ((48, 48), (64, 96)):
        image = torch.randn(2, 3, height, width)
        maps = tower(image)
        with torch.no_grad():
            states = model(
                pixel_values=image, output_hidden_states=True, **options
            ).hidden_states
        for x, block, factor in zip(
            maps, (1, 2, 3, 5), (2, 1, 0.5, 0.25), strict=True
        ):
            patches = states[block + 1][:, -(height * width // 64) :]
            y = patches.mT.unflatten(2, (height // 8, width // 8))
            y = F.interpolate(y, scale_factor=factor, mode='bilinear')
            torch.testing.assert_close(x, y)
    # Sides that the patch size does not divide.
    assert [tuple(m.shape[-2:]) for m in tower(torch.randn(1, 3, 50, 75))] == [
        (50 // s, 75 // s) for s in (4, 8, 16, 32)
    ]


def test_blocks_and_norm(folders):
    folder, model = folders['dinov3_vit']
    tower = TransformersTower(str(folder), blocks=[0, 1, 2, 3], norm=True)
    # The later blocks are not built, the norm is.
    assert not any('layer.4' in key for key in tower.state_dict())
    image = torch.randn(1, 3, 48, 48)
    with torch.no_grad():
        state = model(image, output_hidden_states=True).hidden_states[2]
        y = model.norm(state)[:, -36:].mT.unflatten(2, (6, 6))
    torch.testing.assert_close(tower(image)[1], y)
    plain = TransformersTower(str(folder))
    assert not any(k.startswith('model.norm') for k in plain.state_dict())


@pytest.mark.parametrize(
    ('kind', 'adapter'),
    [
        ('dinov2', dict(type='Rein', num_tokens=6, rank=4)),
        ('dinov2', dict(type='SoMA', rank=4, first_block=2)),
        ('dinov3_vit', dict(type='LoRA', rank=4)),
    ],
)
def test_adapters(folders, kind, adapter):
    folder, model = folders[kind]
    image = torch.randn(1, 3, 48, 64)
    tower = TransformersTower(str(folder), adapter=adapter).train()
    names = set(tower.adapter_parameters())
    start = tower(image)
    if adapter['type'] != 'Rein':
        with torch.no_grad():
            states = model(image, output_hidden_states=True).hidden_states
        plain = states[2][:, -48:].mT.unflatten(2, (6, 8))
        plain = F.interpolate(plain, scale_factor=2, mode='bilinear')
        torch.testing.assert_close(start[0], plain, rtol=1e-4, atol=1e-5)
    with torch.no_grad():
        for name in names:
            tower.get_parameter(name).add_(0.05)
    maps = tower(image)
    # Behind the last block too.
    assert not torch.allclose(maps[3], start[3], atol=1e-4)
    sum(m.square().sum() for m in maps).backward()
    for name, parameter in tower.named_parameters():
        used = name in names and not name.startswith(
            ('reins.transform', 'reins.merge')
        )
        assert (parameter.grad is not None) == used, name
    if adapter['type'] != 'Rein':
        tower.merge_adapter()
        for x, y in zip(tower(image), maps, strict=True):
            torch.testing.assert_close(x, y, rtol=1e-4, atol=1e-5)


def test_rates_decay_from_block_to_block(folders):
    folder, _ = folders['dinov2']
    with DefaultScope.overwrite_default_scope('mmseg'):
        config = make_config(True, type='DGSegmentor')
        config['backbone'] = dict(
            type='TransformersTower', weights=str(folder), frozen=False
        )
        model = MODELS.build(config)
    groups = []
    LayerDecayConstructor(
        dict(type='OptimWrapper', optimizer=dict(type='AdamW', lr=1.0)),
        dict(layer_decay=0.5),
    ).add_params(groups, model)
    rates = {id(g['params'][0]): g['lr'] for g in groups if 'lr' in g}
    named = dict(model.backbone.named_parameters())
    for name, layer in (
        ('model.embeddings.patch_embeddings.projection.weight', 0),
        ('model.embeddings.cls_token', 0),
        ('model.encoder.layer.0.norm1.weight', 1),
        ('model.encoder.layer.5.mlp.fc2.weight', 6),
    ):
        assert rates[id(named[name])] == pytest.approx(0.5 ** (7 - layer))


def test_weights_load_completely_or_not_at_all(folders, tmp_path):
    folder, model = folders['dinov2']
    weights = model.state_dict()
    other = tmp_path / 'other'
    shutil.copytree(folder, other)
    for change in ('missing', 'unexpected'):
        state = dict(weights)
        if change == 'missing':
            del state['encoder.layer.3.norm1.weight']
        else:
            state['encoder.layer.9.norm1.weight'] = torch.ones(32)
        model.save_pretrained(other, state_dict=state)
        with pytest.raises(CheckpointMismatchError, match=r'norm1\.weight is'):
            TransformersTower(str(other))
    config = json.loads((folder / 'config.json').read_text())
    (other / 'config.json').write_text(
        json.dumps(dict(config, hidden_size=16))
    )
    with pytest.raises(UserError):
        TransformersTower(str(other))
    # A checkpoint provides the weights: only the config is needed.
    for file in other.glob('*.safetensors'):
        file.unlink()
    with pytest.raises(MissingWeightsError, match='no model.safetensors'):
        TransformersTower(str(other))
    (other / 'config.json').write_text(json.dumps(config))
    TransformersTower(str(other), load_pretrained=False)
    TransformersTower('nowhere', config=config, load_pretrained=False)


@pytest.mark.parametrize(
    ('kwargs', 'words'),
    [
        (dict(), 'needs weights, a folder, or config'),
        (dict(weights='facebook/x'), 'hf download facebook/x .*ask for acc'),
        (dict(config=dict(model_type='dinov9')), "model_type 'dinov9'"),
        (dict(config=dict(a=1)), 'model_type None'),
        (
            dict(
                config=dict(
                    model_type='bert',
                    hidden_size=8,
                    num_hidden_layers=1,
                    num_attention_heads=1,
                    vocab_size=9,
                )
            ),
            'one patch_size',
        ),
        (
            dict(
                config=dict(
                    model_type='swin',
                    embed_dim=8,
                    depths=[1, 1],
                    num_heads=[1, 1],
                    image_size=32,
                )
            ),
            'plain ViTs, whose blocks return',
        ),
        (
            dict(
                config=dict(CONFIGS['dinov2'], model_type='dinov2'), blocks=[0]
            ),
            'four block numbers',
        ),
        (
            dict(
                config=dict(CONFIGS['dinov2'], model_type='dinov2'),
                adapter=dict(type='LoRA', targets=['qkv']),
            ),
            "'qkv', and the blocks .*q_proj",
        ),
    ],
)
def test_bad_input(kwargs, words):
    with pytest.raises(UserError, match=words):
        TransformersTower(**kwargs)


def test_licence_of_a_folder(folders, tmp_path, monkeypatch):
    from clouds_mmseg.models.backbones import transformers_tower

    told = []
    monkeypatch.setattr(
        transformers_tower, 'tell_licence', lambda *args: told.append(args)
    )
    folder = tmp_path / 'copy'
    shutil.copytree(folders['vit'][0], folder)
    (folder / 'README.md').write_text(
        '---\nlicense: other\nlicense_name: dinov3-license\n---\ntext\n'
    )
    TransformersTower(str(folder))
    assert told == [(str(folder), 'dinov3-license')]
