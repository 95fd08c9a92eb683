"""Adapters on real towers: what is trained, averaged, merged and saved."""

import copy

import pytest
import timm
import torch
from mmengine.registry import DefaultScope
from mmseg.registry import MODELS
from safetensors.torch import save_file
from test_self_training_segmentor import compute, make_batch, make_config
from torch import nn

from clouds_mmseg.models import CLIPBackbone, TIMMTower
from clouds_mmseg.models.backbones.adapters import AdaptableMixin, QueriedMaps
from clouds_mmseg.utils.errors import UserError

REIN = dict(type='Rein', num_tokens=6, rank=4, query_channels=32)
LORA = dict(type='LoRA', rank=4, alpha=8)
SOMA = dict(type='SoMA', rank=4, first_block=2)
ADAPTERS = [REIN, LORA, SOMA]
SMALL = dict(embed_dim=32, depth=4, num_heads=2)
# Layouts of blocks: tokens with and without prefix, biases of the attention
# that are no layer's, channels first, channels last, open_clip's attention.
TOWERS = {
    'vit': lambda **k: TIMMTower('test_vit', **k),
    'eva': lambda **k: TIMMTower(
        'vit_small_patch16_dinov3_qkvb', **SMALL, **k
    ),
    'eva02': lambda **k: TIMMTower('eva02_tiny_patch14_224', **SMALL, **k),
    'convnext': lambda **k: TIMMTower('test_convnext2', **k),
    'hiera': lambda **k: TIMMTower(
        'sam2_hiera_tiny',
        embed_dim=16,
        stages=(1, 1, 2, 1),
        global_att_blocks=(3,),
        **k,
    ),
    'clip_vit': lambda **k: CLIPBackbone('tiny-vit', **k),
    'clip_convnext': lambda **k: CLIPBackbone('tiny-convnext', **k),
    'clip_resnet': lambda **k: CLIPBackbone('tiny-rn', **k),
}


def build(tower, adapter=None):
    torch.manual_seed(0)
    backbone = TOWERS[tower](adapter=adapter)
    for name, parameter in backbone.named_parameters():
        if 'gamma' in name:
            # Some scale their layers by 1e-5 at first: nothing would show.
            parameter.data.fill_(0.5)
    return backbone


def move(module):
    """Change every trained parameter."""
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.requires_grad:
                parameter.add_(0.05 * torch.randn_like(parameter))


def test_no_layer_to_adapt():
    with pytest.raises(UserError, match='no linear layer'):
        build('clip_resnet', LORA)


@pytest.mark.parametrize(
    ('tower', 'adapter'),
    [(tower, REIN) for tower in TOWERS]
    + [(tower, LORA) for tower in ('vit', 'eva', 'hiera', 'clip_vit')]
    + [(tower, SOMA) for tower in ('eva02', 'convnext', 'clip_convnext')],
    ids=lambda x: x if isinstance(x, str) else x['type'],
)
def test_adapter_is_trained_and_the_tower_not(tower, adapter):
    backbone = build(tower, adapter).train()
    names = set(backbone.adapter_parameters())
    trained = {n for n, p in backbone.named_parameters() if p.requires_grad}
    assert trained == names
    # No dropout or statistics of the tower, whatever the mode.
    training = [n for n, m in backbone.named_modules() if m.training and n]
    allowed = ('reins', 'lora_', 'attn', 'mlp', 'qkv', 'proj', 'fc', 'layers')
    assert all(any(a in n for a in allowed) for n in training)
    assert not any(
        m.training
        for m in backbone.modules()
        if isinstance(m, (nn.Dropout, nn.BatchNorm2d))
    )
    image = torch.randn(1, 3, 64, 96)
    before = [x.detach() for x in backbone(image)]
    move(backbone)
    maps = backbone(image)
    # All but the first maps: SoMA leaves the first blocks alone.
    assert not torch.allclose(maps[-1], before[-1], atol=1e-5)
    loss = sum(m.square().sum() for m in maps)
    if isinstance(maps, QueriedMaps):
        assert adapter is REIN and maps.queries.shape == (6, 32)
        loss = loss + maps.queries.square().sum()
    loss.backward()
    for name, parameter in backbone.named_parameters():
        assert (parameter.grad is not None) == (name in names)
        if name in names:
            assert parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize(
    ('tower', 'adapter'),
    [('vit', SOMA), ('eva', LORA), ('clip_vit', SOMA), ('convnext', LORA)],
    ids=lambda x: x if isinstance(x, str) else x['type'],
)
def test_start_and_merging_change_nothing(tower, adapter):
    plain, backbone = build(tower), build(tower, adapter)
    image = torch.randn(1, 3, 64, 96)
    for x, y in zip(plain(image), backbone(image), strict=True):
        torch.testing.assert_close(x, y, rtol=1e-4, atol=1e-5)
    move(backbone)
    with torch.no_grad():
        before = backbone(image)
    backbone.merge_adapter()
    assert not any('lora' in k for k in backbone.state_dict())
    assert backbone.state_dict().keys() == plain.state_dict().keys()
    for x, y in zip(before, backbone(image), strict=True):
        torch.testing.assert_close(x, y, rtol=1e-4, atol=1e-5)
    with pytest.raises(UserError, match='has no adapter'):
        backbone.merge_adapter()


def test_rein_is_not_merged():
    with pytest.raises(UserError, match='depends on the features'):
        build('vit', REIN).merge_adapter()


@pytest.mark.parametrize('adapter', ADAPTERS, ids=lambda a: a['type'])
def test_a_copy_has_an_adapter_of_its_own(adapter):
    backbone = build('vit', adapter)
    copied = copy.deepcopy(backbone)
    image = torch.randn(1, 3, 64, 64)
    before = backbone(image)[3].detach()
    move(copied)
    assert torch.equal(backbone(image)[3], before)
    assert not torch.allclose(copied(image)[3], before, atol=1e-5)


def test_soma_starts_as_its_paper_or_as_its_code(tmp_path):
    path = str(tmp_path / 'w.safetensors')
    torch.manual_seed(3)
    weights = timm.create_model('test_vit').state_dict()
    save_file(weights, path)
    found = {}
    for svd in ('pretrained', 'random'):
        tower = TIMMTower(
            'test_vit', weights=path, adapter=dict(SOMA, svd=svd)
        )
        found[svd] = tower.model.blocks[3].mlp.fc1
        first = tower.model.blocks[1].mlp.fc1
        assert isinstance(first, nn.Linear)
    pretrained = weights['blocks.3.mlp.fc1.weight']
    layer = found['pretrained']
    torch.testing.assert_close(layer.weight + layer.delta(), pretrained)
    values = torch.linalg.svdvals(layer.delta().detach())
    smallest = torch.linalg.svdvals(pretrained)[-4:]
    torch.testing.assert_close(values[:4], smallest, rtol=1e-3, atol=1e-5)
    layer = found['random']
    assert torch.equal(layer.weight, pretrained)
    assert layer.delta().abs().sum() > 0
    assert not hasattr(layer, 'initial_A')


class _Bypassing(AdaptableMixin, nn.Module):
    """A tower that computes with the weights of a layer."""

    tower = 'model'
    probe_size = (32, 40)

    def __init__(self, adapter):
        super().__init__()
        self.build_adapter(adapter, frozen=True)
        self.model = nn.ModuleDict(dict(blocks=nn.ModuleList([_Block()])))
        self.attach_adapter(loaded=True, initialise=True)
        self.set_frozen(True)

    def maps(self, x):
        tokens = x.flatten(2).mT
        return [self.model['blocks'][0](tokens).mT.view_as(x)] * 4


class _Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(3, 3)

    def forward(self, x):
        return x @ self.fc.weight.T


def test_an_adapter_without_effect_is_refused():
    with pytest.raises(UserError, match=r'fc\.lora_A\.weight.*no effect'):
        _Bypassing(dict(type='LoRA', rank=1))


def segmentor(adapter, **kwargs):
    """A SelfTrainingSegmentor on a tiny ViT."""
    torch.manual_seed(0)
    config = make_config(True, **kwargs)
    config['backbone'] = dict(
        type='TIMMTower', model_name='test_vit', adapter=adapter
    )
    if adapter and adapter['type'] == 'Rein':
        config['decode_head']['queries'] = 'backbone'
    with DefaultScope.overwrite_default_scope('mmseg'):
        return MODELS.build(config)


@pytest.mark.parametrize('adapter', ADAPTERS, ids=lambda a: a['type'])
def test_teacher_has_an_adapter_of_its_own(adapter):
    """Labels come from the averaged adapter, not from the student's."""
    model = segmentor(adapter).train()
    model.update_teacher()
    keys = [k for k in model.state_dict() if k.startswith('teacher.module.b')]
    names = model.backbone.adapter_parameters()
    assert sorted(keys) == [f'teacher.module.backbone.{n}' for n in names]
    move(model.backbone)
    # A whole model with the weights of the teacher.
    whole = copy.deepcopy(model)
    state = dict(whole.teacher.module.named_parameters())
    with torch.no_grad():
        for name, value in state.items():
            whole.get_parameter(name).copy_(value)
    whole.eval()
    clean = torch.randn(2, 3, 64, 96)
    meta = dict(img_shape=(64, 96))
    with torch.no_grad():
        expected = whole.decode_head.predict(
            whole.extract_feat(clean), [meta] * 2, whole.test_cfg
        )
        other = model.teacher.module['decode_head'].predict(
            model.extract_feat(clean), [meta] * 2, model.test_cfg
        )
        features = model._teacher_features(clean)
        found = model._predict_teacher(features, (64, 96))
    torch.testing.assert_close(found, expected)
    assert not torch.allclose(found, other, atol=1e-4)
    # A step of training, and an update towards it.
    before = {k: v.clone() for k, v in state.items()}
    losses, _ = compute(model, make_batch())
    sum(v for k, v in losses.items() if 'loss' in k).backward()
    for name in names:
        assert model.backbone.get_parameter(name).grad is not None
    model.update_teacher()
    for name in names:
        key = f'backbone.{name}'
        average = model.teacher.module.get_parameter(key)
        student = model.get_parameter(key)
        torch.testing.assert_close(
            average.data, torch.lerp(before[key], student.data, 0.001)
        )


@pytest.mark.parametrize(
    ('head', 'adapter', 'words'),
    [
        (dict(queries='backbone'), LORA, 'hands over no queries'),
        (dict(queries='learned'), REIN, 'does not take them'),
        (dict(queries='backbone', num_queries=7), REIN, 'num_tokens=6'),
        (dict(queries='backbone'), dict(REIN, query_channels=8), 'feat_chan'),
        (dict(queries='own'), None, "'learned' or 'backbone'"),
        (dict(in_channels=[64, 64, 64, 32]), None, r'have \[64, 64, 64, 64\]'),
        (dict(strides=[2, 4, 8, 16]), None, r'have \[4, 8, 16, 32\]'),
    ],
)
def test_heads_that_do_not_fit(head, adapter, words):
    config = make_config(True)
    config['decode_head'].update(head)
    config['backbone'] = dict(
        type='TIMMTower', model_name='test_vit', adapter=adapter
    )
    with DefaultScope.overwrite_default_scope('mmseg'):
        with pytest.raises(UserError, match=words):
            MODELS.build(config)
