"""Towers of timm: maps, sizes, weights, bad input."""

import pytest
import timm
import torch
import torch.nn.functional as F
from mmengine.registry import DefaultScope
from mmseg.registry import MODELS
from safetensors.torch import save_file

from clouds_mmseg.engine.optim import LayerDecayConstructor
from clouds_mmseg.models import CLIPBackbone, TIMMTower
from clouds_mmseg.models.backbones import timm_tower
from clouds_mmseg.models.backbones.single_scale import (
    choose_blocks,
    resize_kernel,
    resize_table,
)
from clouds_mmseg.utils.errors import UserError
from clouds_mmseg.weights.load import CheckpointMismatchError

# Small in width, as deep as a real one of its family needs.
SMALL = dict(embed_dim=32, depth=6, num_heads=2)
FAMILIES = {
    'dinov2': ('vit_small_patch14_dinov2', dict(SMALL, img_size=112)),
    'dinov2_reg': ('vit_small_patch14_reg4_dinov2', dict(SMALL, img_size=112)),
    'dinov3': ('vit_small_patch16_dinov3', SMALL),
    'dinov3_bias': ('vit_small_patch16_dinov3_qkvb', SMALL),
    'eva02': ('eva02_base_patch16_clip_224', SMALL),
    'siglip2': ('vit_base_patch16_siglip_256', SMALL),
    'pe': ('vit_pe_core_tiny_patch16_384', SMALL),
    'radio': ('vit_base_patch16_radio_v3', SMALL),
}


def build(family, **kwargs):
    name, small = FAMILIES[family]
    return TIMMTower(name, **small, **kwargs)


@pytest.mark.parametrize('family', FAMILIES)
def test_four_maps_of_any_image(family):
    tower = build(family)
    assert tower.strides == [4, 8, 16, 32]
    assert tower.channels == [32] * 4
    for height, width in ((112, 224), (64, 96), (50, 75)):
        maps = tower(torch.randn(1, 3, height, width))
        assert [tuple(m.shape) for m in maps] == [
            (1, 32, height // s, width // s) for s in (4, 8, 16, 32)
        ]
    # Nothing is kept that the maps do not depend on.
    assert not any('attn_pool' in k for k in tower.state_dict())
    assert not tower.training and not maps[0].requires_grad


@pytest.mark.parametrize('name', ['sam2_hiera_tiny', 'test_convnext'])
def test_tower_with_stages(name):
    small = dict(embed_dim=16, stages=(1, 1, 2, 1))
    small |= dict(global_att_blocks=(3,), num_heads=1)
    tower = TIMMTower(name, **(small if 'hiera' in name else {}))
    assert tower.patch_size is None
    maps = tower(torch.randn(1, 3, 100, 150))
    for x, channels, stride in zip(
        maps, tower.channels, tower.strides, strict=True
    ):
        assert x.shape[1] == channels
        for length, side in zip(x.shape[-2:], (100, 150), strict=True):
            assert side // stride <= length <= -(-side // stride)


def test_maps_are_those_of_timm():
    tower = TIMMTower('test_vit', blocks=[0, 2, 3, 5], norm=True)
    model = timm.create_model('test_vit', dynamic_img_size=True).eval()
    tower.model.load_state_dict(model.state_dict(), strict=False)
    image = torch.randn(2, 3, 64, 96)
    expected = model.forward_intermediates(
        image, indices=[0, 2, 3, 5], norm=True, intermediates_only=True
    )
    maps = tower(image)
    for x, y, factor in zip(maps, expected, (4, 2, 1, 0.5), strict=True):
        y = F.interpolate(y, scale_factor=factor, mode='bilinear')
        torch.testing.assert_close(x, y)


def test_default_blocks():
    assert choose_blocks(24, None) == [7, 11, 15, 23]
    assert choose_blocks(12, None) == [3, 5, 7, 11]
    # A shallow tower gives a map twice.
    tower = TIMMTower('vit_small_patch16_dinov3', **dict(SMALL, depth=2))
    assert choose_blocks(2, None) == [0, 0, 0, 1]
    maps = tower(torch.randn(1, 3, 32, 64))
    half = F.interpolate(maps[0], scale_factor=0.5, mode='bilinear')
    assert len(maps) == 4 and half.shape == maps[1].shape


def test_weights_of_other_sizes_are_resized(tmp_path):
    torch.manual_seed(1)
    whole = timm.create_model(
        'vit_small_patch14_dinov2', **SMALL, img_size=112
    )
    weights = {k: v.contiguous() for k, v in whole.state_dict().items()}
    path = str(tmp_path / 'w.safetensors')
    # The original release has this one too.
    save_file({**weights, 'mask_token': torch.zeros(1, 32)}, path)
    found = {}
    for resize in ('timm', 'bicubic'):
        tower = TIMMTower(
            'vit_small_patch14_dinov2',
            **SMALL,
            patch_size=16,
            img_size=64,
            weights=path,
            resize=resize,
        )
        state = tower.model.state_dict()
        table = resize_table(
            weights['pos_embed'], (8, 8), (4, 4), resize=resize
        )
        torch.testing.assert_close(state['pos_embed'], table)
        kernel = weights['patch_embed.proj.weight']
        torch.testing.assert_close(
            state['patch_embed.proj.weight'],
            resize_kernel(kernel, (16, 16), resize),
        )
        found[resize] = tower(torch.ones(1, 3, 64, 64))[0]
        key = 'blocks.5.mlp.fc2.weight'
        torch.testing.assert_close(state[key], weights[key])
    assert not torch.allclose(found['timm'], found['bicubic'], atol=1e-4)


def test_table_is_whole_again_after_a_failure():
    tower = build('dinov2', resize='bicubic')
    table = tower.model.pos_embed
    with pytest.raises(RuntimeError):
        tower(torch.zeros(1, 4, 112, 224))
    assert tower.model.pos_embed is table
    assert tower.model.patch_embed.grid_size == (8, 8)


def test_weights_load_strictly_or_not_at_all(tmp_path):
    weights = timm.create_model('test_vit').state_dict()
    weights.pop('blocks.3.norm1.weight')
    path = str(tmp_path / 'w.safetensors')
    save_file(weights, path)
    with pytest.raises(UserError, match=r'norm1\.weight'):
        TIMMTower('test_vit', weights=path)
    weights = timm.create_model('test_vit2').state_dict()
    save_file(weights, path)
    with pytest.raises((UserError, CheckpointMismatchError)):
        TIMMTower('test_vit', weights=path)


def test_folder_of_timm(tmp_path):
    model = timm.create_model('test_vit', num_classes=3).eval()
    timm.models.save_for_hf(model, tmp_path)
    tower = TIMMTower(f'local-dir:{tmp_path}', pretrained=True)
    key = 'blocks.5.attn.qkv.weight'
    assert torch.equal(tower.model.state_dict()[key], model.state_dict()[key])
    assert tower.expects[0] == pytest.approx((127.5,) * 3)


@pytest.mark.parametrize(
    ('kwargs', 'words'),
    [
        (dict(model_name='vit_large_dino'), 'no model .*near are'),
        (dict(model_name='vit_large_patch14_dinov2.x'), 'lvd142m'),
        (dict(blocks=[0, 1, 2, 6]), r'\[0, 5\].*6 blocks'),
        (dict(blocks=[0, 1, 2]), 'four block numbers'),
        (dict(resize='bilinear'), "'timm' .* or 'bicubic'"),
        (dict(weights='none.pth'), 'no such file'),
        (dict(weights='a', pretrained=True), 'one of them'),
        (dict(depht=3), 'depht'),
        (dict(model_name='hiera_tiny_224'), 'no maps'),
        (dict(model_name='test_convnext', norm=True), 'plain ViTs'),
        (dict(adapter=dict(type='LoRa')), 'Rein, LoRA, SoMA'),
        (dict(adapter=dict(type='LoRA'), frozen=False), 'frozen tower'),
        (dict(adapter=dict(type='LoRA', first_block=6)), 'blocks 0 to 5'),
        (
            dict(adapter=dict(type='LoRA', targets=['q'])),
            "names 'q', and the blocks .* no such linear.* qkv",
        ),
        (dict(adapter=dict(type='LoRA', rank=65)), '65 is greater'),
        (dict(adapter=dict(type='Rein', rank=0)), 'positive integer'),
        (dict(adapter=dict(type='SoMA', svd='paper')), "'pretrained'"),
        (dict(adapter=dict(type='Rein', tokens=3)), 'tokens'),
    ],
)
def test_bad_input(kwargs, words):
    with pytest.raises(UserError, match=words):
        TIMMTower(**dict(dict(model_name='test_vit'), **kwargs))


def test_licence_is_told_once(monkeypatch):
    told = []
    monkeypatch.setattr(
        timm_tower, 'print_log', lambda text, **kwargs: told.append(text)
    )
    timm_tower.tell_licence.cache_clear()
    for name, words in (
        ('vit_tiny_patch16_dinov3_qkvb.eupe_lvd1689m', 'forbids commercial'),
        ('vit_large_patch16_dinov3.lvd1689m', 'dinov3-license'),
        ('vit_large_patch14_dinov2.lvd142m', None),
    ):
        told.clear()
        licence = timm.models.get_pretrained_cfg(name).license
        timm_tower.tell_licence(name, licence)
        timm_tower.tell_licence(name, licence)
        assert len(told) == (words is not None)
        assert words is None or words in told[0]


def test_image_smaller_than_a_patch():
    with pytest.raises(UserError, match='at least 16 pixels'):
        TIMMTower('test_vit')(torch.zeros(1, 3, 8, 64))


def test_vit_of_open_clip(tiny_clip):
    model = tiny_clip('tiny-vit').visual
    tower = CLIPBackbone('tiny-vit', blocks=[0, 1, 2, 3])
    tower.visual.load_state_dict(model.state_dict(), strict=False)
    image = torch.randn(1, 3, 64, 64)
    expected = model.forward_intermediates(
        image, intermediates_only=True, indices=[0, 1, 2, 3]
    )['image_intermediates']
    maps = tower(image)
    torch.testing.assert_close(maps[2], expected[2])
    torch.testing.assert_close(
        maps[3], F.interpolate(expected[3], scale_factor=0.5, mode='bilinear')
    )
    # And of any other size.
    maps = tower(torch.randn(1, 3, 96, 40))
    assert [tuple(m.shape[-2:]) for m in maps] == [
        (24, 10),
        (12, 5),
        (6, 2),
        (3, 1),
    ]
    with pytest.raises(UserError, match='no plain ViT'):
        CLIPBackbone('tiny-rn', blocks=[0, 1, 2, 3])


def test_rates_decay_by_layer():
    tower = TIMMTower('test_vit', frozen=False)
    model = torch.nn.ModuleDict(
        dict(backbone=tower, head=torch.nn.Linear(2, 2))
    )
    model.backbone = tower
    cfg = dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=1.0))
    with DefaultScope.overwrite_default_scope('mmseg'):
        wrapper = LayerDecayConstructor(cfg, dict(layer_decay=0.5))(model)
    rate_of = {
        id(g['params'][0]): g['lr'] for g in wrapper.optimizer.param_groups
    }
    rates = {n: rate_of[id(p)] for n, p in model.named_parameters()}
    assert rates['head.weight'] == 1
    last = rates['backbone.model.blocks.5.mlp.fc2.weight']
    for block in range(6):
        rate = rates[f'backbone.model.blocks.{block}.norm1.weight']
        assert rate == pytest.approx(last * 0.5 ** (5 - block))
    first = rates['backbone.model.patch_embed.proj.weight']
    assert first < rates['backbone.model.blocks.0.norm1.weight'] < last <= 1
    tower.set_frozen(True)
    with pytest.raises(UserError, match='nothing to decay'):
        LayerDecayConstructor(cfg, dict(layer_decay=0.5))(model)
    with pytest.raises(UserError, match='layer_decay in'):
        LayerDecayConstructor(cfg, {})


def test_statistics_are_the_towers():
    head = dict(
        type='CLOUDSHead',
        num_classes=3,
        feat_channels=32,
        num_queries=4,
        num_encoder_layers=1,
        num_decoder_layers=1,
    )
    cfg = dict(
        type='DGSegmentor',
        data_preprocessor=dict(
            type='SegDataPreProcessor', bgr_to_rgb=True, size=(32, 32)
        ),
        backbone=dict(type='TIMMTower', model_name='test_vit'),
        decode_head=head,
    )
    with DefaultScope.overwrite_default_scope('mmseg'):
        model = MODELS.build(cfg)
        cfg['data_preprocessor'] |= dict(mean=[1.0] * 3, std=[2.0] * 3)
        other = MODELS.build(cfg)
    image = torch.full((3, 32, 32), 255.0)
    batch = dict(inputs=[image], data_samples=None)
    assert model.data_preprocessor(batch)['inputs'].unique().tolist() == [1.0]
    assert other.data_preprocessor(batch)['inputs'].unique().item() == 127
