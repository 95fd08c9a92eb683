import copy

import open_clip
import pytest
import torch
from mmengine.optim import OptimWrapper
from mmseg.registry import MODELS
from safetensors.torch import save_file
from torch import nn

from clouds_mmseg.models import CLIPBackbone
from clouds_mmseg.models.backbones.clip import probe_pyramid
from clouds_mmseg.models.backbones.unused import find_unused, remove_modules
from clouds_mmseg.utils.errors import UserError
from clouds_mmseg.weights.io import WeightFileError
from clouds_mmseg.weights.load import CheckpointMismatchError

TOWERS = ['tiny-rn', 'tiny-convnext']


@pytest.fixture(params=TOWERS)
def clip(request, tiny_clip):
    return request.param, tiny_clip(request.param)


def stage_outputs(visual, image):
    """The maps by hooks on the stages, not by forward_intermediates."""
    if hasattr(visual, 'trunk'):
        stages = visual.trunk.stages
    else:
        stages = [getattr(visual, f'layer{i}') for i in (1, 2, 3, 4)]
    maps = {}
    handles = [
        stage.register_forward_hook(
            lambda m, inp, out, i=i: maps.__setitem__(i, out)
        )
        for i, stage in enumerate(stages)
    ]
    # Another layout would add up in another order.
    image = image.contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        visual(image)
    for handle in handles:
        handle.remove()
    return [maps[i] for i in range(4)]


def save(tmp_path, model, form):
    """Write a CLIP model in one of the forms that are around."""
    weights = {k: v.contiguous() for k, v in model.state_dict().items()}
    path = tmp_path / 'clip.pt'
    if form == 'safetensors':
        path = tmp_path / 'clip.safetensors'
        save_file(weights, path)
    elif form == 'training':
        content = {f'module.{k}': v for k, v in weights.items()}
        torch.save({'epoch': 1, 'state_dict': content}, path)
    elif form == 'half':
        halved = {
            k: v.half() if v.is_floating_point() else v
            for k, v in weights.items()
        }
        torch.save(halved, path)
    elif form == 'archive':
        model = copy.deepcopy(model)
        for name in ('input_resolution', 'context_length', 'vocab_size'):
            if hasattr(model, name):
                delattr(model, name)
            model.register_buffer(name, torch.tensor(64))
        inputs = (torch.zeros(1, 3, 64, 64), torch.zeros(1, 8).long())
        torch.jit.save(torch.jit.trace(model, inputs), path)
    elif form == 'visual':
        torch.save(model.visual.state_dict(), path)
    else:
        torch.save(weights, path)
    return str(path)


@pytest.mark.parametrize(
    'form', ['plain', 'safetensors', 'training', 'visual']
)
def test_maps_equal_the_stages_outputs(clip, tmp_path, form):
    name, model = clip
    backbone = CLIPBackbone(name, pretrained=save(tmp_path, model, form))
    image = torch.randn(2, 3, 64, 64)
    expected = stage_outputs(model.visual, image)
    maps = backbone(image)
    for found, want, width, stride in zip(
        maps, expected, backbone.channels, backbone.strides, strict=True
    ):
        assert torch.equal(found, want)
        assert found.shape == (2, width, 64 // stride, 64 // stride)
    assert backbone.strides == [4, 8, 16, 32]


@pytest.mark.filterwarnings('ignore::torch.jit.TracerWarning')
@pytest.mark.filterwarnings('ignore::FutureWarning')
def test_reads_the_archives_of_openai(tiny_clip, tmp_path):
    model = tiny_clip('tiny-rn')
    backbone = CLIPBackbone('tiny-rn', save(tmp_path, model, 'archive'))
    image = torch.randn(1, 3, 64, 64)
    expected = stage_outputs(model.visual, image)
    assert torch.equal(backbone(image)[3], expected[3])


@pytest.mark.filterwarnings('ignore::torch.jit.TracerWarning')
@pytest.mark.filterwarnings('ignore::FutureWarning')
def test_transformers_of_openai_get_quick_gelu(tiny_clip, tmp_path):
    """Their archives do not name it, and GELU gives other maps."""
    model = tiny_clip('tiny-vit', force_quick_gelu=True)
    blocks = dict(blocks=[0, 1, 2, 3])
    archive = CLIPBackbone(
        'tiny-vit', save(tmp_path, model, 'archive'), **blocks
    )
    kinds = {type(m) for m in archive.modules() if 'GELU' in str(type(m))}
    assert kinds == {open_clip.transformer.QuickGELU}
    image = torch.randn(1, 3, 64, 64)
    plain = CLIPBackbone('tiny-vit', save(tmp_path, model, 'plain'), **blocks)
    assert (plain(image)[0] - archive(image)[0]).abs().max() > 1e-4


def test_half_precision_weights_become_float(tiny_clip, tmp_path):
    model = tiny_clip('tiny-rn')
    backbone = CLIPBackbone('tiny-rn', save(tmp_path, model, 'half'))
    assert {p.dtype for p in backbone.parameters()} == {torch.float32}
    expected = model.visual.conv1.weight.half().float()
    assert torch.equal(backbone.visual.conv1.weight, expected)


@pytest.mark.parametrize('size', [(32, 32), (97, 131), (65, 40), (75, 200)])
def test_sizes_that_no_stride_divides(clip, size):
    name, _ = clip
    backbone = CLIPBackbone(name)
    for found, stride in zip(
        backbone(torch.randn(1, 3, *size)), backbone.strides, strict=True
    ):
        assert torch.isfinite(found).all()
        for length, pixels in zip(found.shape[-2:], size, strict=True):
            assert pixels // stride <= length <= -(-pixels // stride)


def test_too_small_an_image_is_named(clip):
    with pytest.raises(UserError, match=r'at least 32 .* got \(31, 64\)'):
        CLIPBackbone(clip[0])(torch.zeros(1, 3, 31, 64))


def test_every_parameter_takes_part(clip):
    name, model = clip
    backbone = CLIPBackbone(name, frozen=False)
    assert backbone.training
    sum(m.sum() for m in backbone(torch.randn(2, 3, 64, 64))).backward()
    idle = [k for k, p in backbone.named_parameters() if p.grad is None]
    assert idle == []
    assert len(list(backbone.parameters())) > 20
    # Only what makes the maps is saved with a model.
    whole = {f'visual.{k}' for k in model.visual.state_dict()}
    assert set(backbone.state_dict()) < whole


class Net(nn.Module):
    def __init__(self, backbone):
        super().__init__()
        self.backbone = backbone
        self.head = nn.Conv2d(backbone.channels[-1], 2, 1)

    def forward(self, image):
        return self.head(self.backbone(image)[-1])


def train(net, steps=3):
    wrapper = OptimWrapper(
        torch.optim.AdamW(net.parameters(), lr=0.1, weight_decay=0.5)
    )
    for _ in range(steps):
        # The framework's loop does this before every iteration.
        net.train()
        wrapper.update_params(net(torch.randn(2, 3, 64, 64)).square().mean())


def bytes_of(module):
    return {k: v.numpy().tobytes() for k, v in module.state_dict().items()}


def test_frozen_keeps_every_byte(clip):
    net = Net(CLIPBackbone(clip[0]))
    before, head = bytes_of(net.backbone), bytes_of(net.head)
    assert not any(p.requires_grad for p in net.backbone.parameters())
    train(net)
    assert not any(m.training for m in net.backbone.modules())
    assert bytes_of(net.backbone) == before
    assert all(p.grad is None for p in net.backbone.parameters())
    assert bytes_of(net.head) != head


def test_frozen_forward_records_nothing(clip):
    backbone = CLIPBackbone(clip[0])
    image = torch.randn(1, 3, 64, 64, requires_grad=True)
    for found in backbone(image):
        assert found.grad_fn is None and not found.requires_grad
        # A head can save it for backward.
        assert not found.is_inference()
    assert torch.is_grad_enabled()


def test_not_frozen_trains_and_moves_statistics():
    net = Net(CLIPBackbone('tiny-rn', frozen=False))
    before = bytes_of(net.backbone)
    # A CLIP ResNet starts with residual branches scaled by zero: what lies
    # in them gets its first gradient in the second step.
    train(net, steps=2)
    after = bytes_of(net.backbone)
    assert net.backbone.visual.bn1.training
    assert {k for k in after if after[k] == before[k]} == set()
    with torch.no_grad():
        assert not net.backbone(torch.randn(1, 3, 64, 64))[0].requires_grad


def test_initialisation_leaves_loaded_weights_alone(tiny_clip, tmp_path):
    model = tiny_clip('tiny-rn')
    backbone = MODELS.build(
        dict(
            type='CLIPBackbone',
            model_name='tiny-rn',
            pretrained=save(tmp_path, model, 'plain'),
        )
    )
    before = bytes_of(backbone)
    backbone.init_weights()
    assert bytes_of(backbone) == before
    with pytest.raises(UserError, match='from one place'):
        CLIPBackbone(
            'tiny-rn', 'x.pt', init_cfg=dict(type='Normal', layer='Conv2d')
        )


def test_framework_initialisation_reaches_random_weights():
    init_cfg = dict(type='Constant', val=0.25, layer='Conv2d')
    backbone = CLIPBackbone('tiny-rn', frozen=False, init_cfg=init_cfg)
    backbone.init_weights()
    assert (backbone.visual.conv1.weight == 0.25).all()


def test_weights_of_another_tower_are_refused(tiny_clip, tmp_path):
    path = save(tmp_path, tiny_clip('tiny-convnext'), 'plain')
    with pytest.raises(CheckpointMismatchError, match='keys missing') as error:
        CLIPBackbone('tiny-rn', path)
    assert path in str(error.value)
    assert 'layer1.0.conv1.weight' in str(error.value)


def test_one_key_too_many_or_too_few_is_refused(tiny_clip, tmp_path):
    weights = dict(tiny_clip('tiny-rn').state_dict())
    weights['visual.layer9.weight'] = torch.zeros(3)
    del weights['visual.layer2.0.bn1.bias']
    # What is dropped may be absent.
    del weights['visual.attnpool.c_proj.bias']
    torch.save(weights, tmp_path / 'w.pt')
    with pytest.raises(CheckpointMismatchError) as error:
        CLIPBackbone('tiny-rn', str(tmp_path / 'w.pt'))
    assert set(error.value.missing) == {'layer2.0.bn1.bias'}
    assert set(error.value.unexpected) == {'layer9.weight'}


def test_damaged_file_is_named(tmp_path):
    (tmp_path / 'w.pt').write_bytes(b'<html>sign in</html>')
    with pytest.raises(WeightFileError, match='web page'):
        CLIPBackbone('tiny-rn', str(tmp_path / 'w.pt'))


def test_tower_without_a_pyramid():
    with pytest.raises(UserError, match='no feature pyramid.*ConvNeXt'):
        CLIPBackbone('ViT-B-16-SigLIP')


def test_pyramid_that_starts_too_late(monkeypatch, tiny_clip):
    # A tower that has maps, but not the expected ones.
    from clouds_mmseg.models.backbones import clip as clip_probe

    monkeypatch.setattr(clip_probe, 'STRIDES', [2, 4, 8, 16])
    with pytest.raises(UserError, match=r'strides \[4, 8, 16, 32\]'):
        CLIPBackbone('tiny-convnext')


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (('convnext_larg',), r"Near: \['convnext_large'"),
        (('qqqqqqqqqqqqqqq',), r'Near: \[\]'),
        (('RN50', 'openia'), r"its tags: \['openai', 'yfcc15m', 'cc12m'\]"),
        (('convnext_tiny', 'x.pt'), 'neither a file .* its tags: none'),
        (
            ('RN50', 'openai'),
            '(?s)huggingface.co/timm/resnet50_clip.openai.*path',
        ),
    ],
)
def test_wrong_names(arguments, message):
    with pytest.raises(UserError, match=message):
        CLIPBackbone(*arguments)


def test_real_towers_are_what_the_paper_uses():
    assert probe_pyramid('convnext_large_d_320').channels == [
        192,
        384,
        768,
        1536,
    ]
    backbone = CLIPBackbone('RN50')
    assert backbone.channels == [256, 512, 1024, 2048]
    maps = backbone(torch.zeros(1, 3, 64, 64))
    assert [m.shape[1] for m in maps] == backbone.channels
    # 25.6 M of a ResNet-50 less its classifier.
    count = sum(p.numel() for p in backbone.parameters())
    assert 23.4e6 < count < 23.6e6


def test_maps_that_are_not_asked_for_cost_nothing(tiny_clip):
    # It has a map at stride 2 as well, and layers after the last map.
    name = 'tiny-efficientnet'
    visual = tiny_clip(name).visual
    pyramid = probe_pyramid(name)
    assert pyramid.indices == [1, 2, 3, 4]
    assert {'trunk.conv_head', 'trunk.bn2'} <= set(pyramid.unused)
    backbone = CLIPBackbone(name)
    backbone.visual.load_state_dict(visual.state_dict(), strict=False)
    image = torch.randn(1, 3, 64, 64)
    image = image.contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        expected = visual.forward_intermediates(image, output_fmt='NCHW')
    expected = expected['image_intermediates'][1:]
    for found, want in zip(backbone(image), expected, strict=True):
        assert torch.equal(found, want)


class Nested(nn.Module):
    def __init__(self):
        super().__init__()
        self.used = nn.Linear(3, 3)
        self.idle = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
        self.mixed = nn.ModuleList([nn.Linear(3, 3), nn.Linear(3, 3)])
        self.token = nn.Parameter(torch.zeros(3))

    def forward(self, x):
        return self.mixed[0](self.used(x))


def test_idle_parts_are_found_and_removed():
    model = Nested()
    x = torch.randn(2, 3)
    expected = model(x)
    expected.sum().backward()
    unused = find_unused(model)
    assert sorted(unused) == ['idle', 'mixed.1', 'token']
    remove_modules(model, unused)
    assert {k.rpartition('.')[0] for k in model.state_dict()} == {
        'used',
        'mixed.0',
    }
    assert torch.equal(model(x), expected)


def test_maps_lie_with_the_channels_last(tiny_clip):
    """So do the convolutions of the head that read them."""
    for found in CLIPBackbone('tiny-rn')(torch.randn(2, 3, 64, 64)):
        assert found.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.skipif(
    torch.__version__ < (2, 8), reason='compile=True needs torch 2.8'
)
def test_a_compiled_tower_gives_the_same_maps_under_the_same_names(clip):
    name, _ = clip
    plain = CLIPBackbone(name)
    # As one graph, of the operators as they are: generating code for them is
    # torch's business, and takes a minute.
    options = dict(backend='aot_eager', fullgraph=True)
    compiled = CLIPBackbone(name, compile=options)
    compiled.load_state_dict(plain.state_dict())
    image = torch.randn(2, 3, 64, 64)
    for found, expected in zip(compiled(image), plain(image), strict=True):
        torch.testing.assert_close(found, expected)
    assert not any(x.requires_grad for x in compiled(image))


def test_a_torch_that_compiles_wrongly_is_refused(monkeypatch):
    old = torch.torch_version.TorchVersion('2.6.0+cu124')
    monkeypatch.setattr(torch, '__version__', old)
    with pytest.raises(
        UserError, match='with torch 2.6.0.*compile=True needs'
    ):
        CLIPBackbone('tiny-rn', compile=True)


def test_only_a_frozen_tower_is_compiled():
    with pytest.raises(UserError, match='compile=True.*frozen=False'):
        CLIPBackbone('tiny-rn', compile=True, frozen=False)
