"""Checkpoints of PMT and EoMT become ours, completely or not at all."""

import json
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope
from mmseg.registry import MODELS
from safetensors import safe_open
from safetensors.torch import save_file

from clouds_mmseg.conversion.convert import to_ours
from clouds_mmseg.conversion.convert_file import convert_file, report_lines
from clouds_mmseg.conversion.layouts import detect
from clouds_mmseg.conversion.plain_heads import rename, shapes_of_model
from clouds_mmseg.conversion.target_spec import shapes_of, strip_prefix
from clouds_mmseg.utils.errors import UserError
from clouds_mmseg.weights.load import (
    CheckpointMismatchError,
    load_strictly,
    read_checkpoint,
)

CONFIGS = Path(__file__).resolve().parents[2] / 'configs'


@pytest.fixture(scope='module')
def recorded(reference_dir):
    def read(name, prefix='state.'):
        path = reference_dir / f'towers/{name}_tiny.safetensors'
        with safe_open(path, 'pt') as file:
            return {
                key.removeprefix(prefix): file.get_tensor(key)
                for key in file.keys()
                if key.startswith(prefix)
            }

    return read


@pytest.mark.parametrize(
    ('manifest', 'kind', 'config', 'classes'),
    [
        ('pmt_dinov3_large', 'pmt', 'pmt/gta2cs_dinov3l', 150),
        ('eomt_dinov3_large', 'eomt', 'eomt/gta2cs_dinov3l', 150),
        ('eomt_dinov2_large', 'eomt', 'eomt/cs2acdc_dinov2l', 19),
    ],
)
def test_published_names_find_their_places(
    reference_dir, manifest, kind, config, classes
):
    """On the meta device: in the model of the config, at its true size."""
    path = reference_dir / f'towers/{manifest}_keys.json'
    weights = {
        key: torch.empty(shape, device='meta')
        for key, shape in json.loads(path.read_text()).items()
    }
    assert detect(weights).kind == kind
    renamed, pairs, dropped = rename(weights, 'the file')
    assert {old for old, _ in pairs} | set(dropped) == set(weights)
    cfg = Config.fromfile(CONFIGS / f'{config}.py').model
    cfg.decode_head.num_classes = classes
    cfg.backbone.update(load_pretrained=False)
    with (
        torch.device('meta'),
        DefaultScope.overwrite_default_scope('mmseg'),
    ):
        tower = MODELS.build(cfg.backbone)
        head = MODELS.get(cfg.decode_head.type)
        head = MODELS.build(head.fit_to(tower, cfg.decode_head))
    shapes = {f'decode_head.{k}': s for k, s in shapes_of(head).items()}
    if kind == 'eomt':
        # PMT is published without its tower.
        shapes |= {f'backbone.{k}': s for k, s in shapes_of(tower).items()}
    assert shapes == {k: tuple(v.shape) for k, v in renamed.items()}


@pytest.mark.parametrize('name', ['eomt_dinov2', 'eomt_dinov3'])
def test_whole_weights_convert(recorded, name):
    weights = recorded(name)
    layout = detect(weights)
    result = to_ours(weights, layout)
    spec, title = shapes_of_model(result.weights, layout.kind)
    result.check(spec, 'the file', title)
    assert 'EoMTHead' in title and name[5:].upper()[:4] in title
    values = sum(v.numel() for v in result.weights.values())
    assert values == sum(
        v.numel() for k, v in weights.items() if 'pixel_' not in k
    )
    with pytest.raises(UserError, match='leave --tower out'):
        to_ours(weights, layout, tower=('x', {}))


def as_differences(weights):
    """What EoMT publishes: all but the head minus what it started from."""
    original = {
        key.removeprefix('encoder.backbone.'): torch.randn_like(value)
        for key, value in weights.items()
        if key.startswith('encoder.backbone.')
    }
    different = dict(weights)
    for key, value in original.items():
        different[f'encoder.backbone.{key}'] = (
            weights[f'encoder.backbone.{key}'] - value
        )
    different['attn_mask_probs'] = weights['attn_mask_probs'] - 1
    for key in ('encoder.pixel_mean', 'encoder.pixel_std'):
        different[key] = torch.zeros_like(weights[key])
    return different, original


def in_transformers(original):
    return {
        key.replace('patch_embed.', 'embeddings.').replace(
            'blocks.', 'layer.'
        ): value
        for key, value in original.items()
    } | {'embeddings.mask_token': torch.zeros(1)}


def test_differences_are_added_to_the_original_tower(recorded):
    weights = recorded('eomt_dinov3')
    layout = detect(weights)
    expected = to_ours(weights, layout).weights
    different, original = as_differences(weights)
    with pytest.raises(UserError, match='holds differences.*--tower'):
        to_ours(different, layout)
    for tower in (original, in_transformers(original)):
        found = to_ours(different, layout, tower=('dino', tower)).weights
        assert found.keys() == expected.keys()
        for key, value in expected.items():
            torch.testing.assert_close(found[key], value, atol=1e-5, rtol=0)
    timm = strip_prefix(
        'backbone.model.',
        rename(
            {f'encoder.backbone.{k}': v for k, v in original.items()},
            'x',
            'eomt',
        )[0],
    )
    # timm leaves out biases that are zero.
    without = {k: v for k, v in timm.items() if '_bias' not in k}
    found = to_ours(different, layout, tower=('dino', without)).weights
    key = 'backbone.model.blocks.0.attn.qkv.weight'
    torch.testing.assert_close(found[key], expected[key], atol=1e-5, rtol=0)
    del timm['blocks.1.mlp.fc1.weight']
    with pytest.raises(UserError, match=r'dino is not the tower.*fc1'):
        to_ours(different, layout, tower=('dino', timm))


def test_what_does_not_fit_is_refused(recorded):
    weights = recorded('eomt_dinov3')
    layout = detect(weights)
    with pytest.raises(CheckpointMismatchError, match='extra'):
        to_ours({**weights, 'extra.weight': torch.zeros(1)}, layout)
    key = 'encoder.backbone.blocks.0.attention.k_proj.weight'
    partial = {k: v for k, v in weights.items() if k != key}
    with pytest.raises(UserError, match='query, key and value'):
        to_ours(partial, layout)
    other = {**weights, 'encoder.pixel_mean': torch.full((1, 3, 1, 1), 0.5)}
    with pytest.raises(UserError, match='normalises by encoder.pixel_mean'):
        to_ours(other, layout)
    unsaid = {k: v for k, v in weights.items() if 'pixel' not in k}
    with pytest.raises(UserError, match='lacks network.encoder.pixel_mean'):
        to_ours(unsaid, layout)
    short = {k: v for k, v in weights.items() if 'upscale.1.conv1' not in k}
    result = to_ours(short, layout)
    spec, title = shapes_of_model(result.weights, layout.kind)
    with pytest.raises(CheckpointMismatchError, match='conv1'):
        result.check(spec, 'the file', title)
    mask2former = {'sem_seg_head.predictor.query_feat.weight': torch.ones(1)}
    with pytest.raises(UserError, match='--tower is for differences'):
        to_ours(mask2former, detect(mask2former), tower=('x', {}))


_PMT = """
model = dict(
    type='DGSegmentor',
    data_preprocessor=dict(
        type='SegDataPreProcessor', bgr_to_rgb=True, size=(64, 64)),
    backbone=dict(
        type='TIMMTower', model_name='vit_small_patch14_reg4_dinov2',
        embed_dim=24, depth=4, num_heads=3, patch_size=16, img_size=64,
        blocks=[0, 1, 2, 3], output='tokens', norm=True, weights={weights!r}),
    decode_head=dict(
        type='PMTHead', num_classes=5, num_queries=6, num_blocks=2,
        ffn_channels=24, projection='linear'),
    train_cfg=dict(), test_cfg=dict(mode='whole'))
"""


def test_a_decoder_without_tower_gets_it_from_its_config(
    recorded, tmp_path, reference_dir
):
    """As PMT publishes: the file says afterwards which tower it needs."""
    weights = recorded('pmt_dinov2')
    tower = strip_prefix('encoder.backbone.', weights)
    save_file(tower, tmp_path / 'tower.safetensors')
    decoder = {
        f'network.{k}': v
        for k, v in weights.items()
        if not k.startswith('encoder.')
    }
    source, target = tmp_path / 'pmt.pth', tmp_path / 'ours.safetensors'
    torch.save(dict(state_dict=decoder), source)
    with pytest.raises(UserError, match='no tower.*--config'):
        convert_file(source, target)
    config = tmp_path / 'pmt.py'
    config.write_text(_PMT.format(weights=str(tmp_path / 'tower.safetensors')))
    outcome = convert_file(source, target, config=str(config))
    lines = '\n'.join(report_lines(outcome))
    assert 'the frozen tower, built from its own weights' in lines
    with safe_open(target, 'pt') as file:
        assert all(k.startswith('decode_head.') for k in file.keys())

    content = read_checkpoint(str(target))
    with DefaultScope.overwrite_default_scope('mmseg'):
        model = MODELS.build(Config.fromfile(config).model).eval()
    load_strictly(model, content['state_dict'], source=str(target))
    model.decode_head.attn_mask_probs.zero_()
    expected = recorded('pmt_dinov2', 'annealed.')
    image = recorded('pmt_dinov2', 'image')['01'] * 255
    mean, std = model.data_preprocessor.mean, model.data_preprocessor.std
    with torch.no_grad():
        classes, masks = model.decode_head.last_prediction(
            model.extract_feat((image - mean) / std)
        )
    torch.testing.assert_close(classes, expected['cls.2'], atol=1e-4, rtol=0)
    torch.testing.assert_close(masks, expected['mask.2'], atol=1e-4, rtol=0)

    config.write_text(_PMT.format(weights=None))
    with pytest.raises(UserError, match='config no weights of it'):
        convert_file(source, tmp_path / 'b.pth', config=str(config))


def test_all_of_pmt_converts_with_its_tower(recorded):
    weights = recorded('pmt_dinov3')
    result = to_ours(weights, detect(weights))
    spec, title = shapes_of_model(result.weights, 'pmt')
    result.check(spec, 'the file', title)
    assert 'DINOv3 of 4 blocks, 24 channels' in title
    # What is ours already is no checkpoint of theirs.
    assert detect(result.weights).kind == 'mmseg'
