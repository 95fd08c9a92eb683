"""Windows that go through the network together."""

import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.registry import DefaultScope
from mmseg.models import EncoderDecoder
from mmseg.registry import MODELS

import clouds_mmseg  # noqa: F401

CLASSES = 4


@pytest.fixture(scope='module')
def segmentor():
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope('mmseg'):
        return MODELS.build(
            dict(
                type='DGSegmentor',
                backbone=dict(
                    type='FrozenTIMMBackbone',
                    model_name='test_resnet',
                    weights=None,
                ),
                decode_head=dict(
                    type='CLOUDSHead',
                    num_classes=CLASSES,
                    feat_channels=32,
                    out_channels=16,
                    num_queries=5,
                    num_encoder_layers=1,
                    num_decoder_layers=1,
                    encoder_ffn_channels=16,
                    decoder_ffn_channels=16,
                ),
                train_cfg=dict(),
                test_cfg=dict(mode='whole'),
            )
        ).eval()


def count_calls(module):
    sizes = []
    hook = module.register_forward_pre_hook(
        lambda module, args: sizes.append(tuple(args[0].shape))
    )
    return sizes, hook


@pytest.mark.parametrize('batch', [1, 2])
@pytest.mark.parametrize(
    'size, crop, stride, windows',
    [
        ((96, 160), (64, 64), (48, 40), 8),
        ((70, 131), (64, 96), (32, 64), 4),
        ((48, 50), (64, 64), (32, 32), 1),
    ],
)
def test_windows_at_once_equal_the_framework(
    segmentor, batch, size, crop, stride, windows
):
    segmentor.test_cfg = ConfigDict(
        mode='slide', crop_size=crop, stride=stride, window_batch=3
    )
    torch.manual_seed(1)
    inputs = torch.randn(batch, 3, *size)
    metas = [dict(img_shape=size, ori_shape=size) for _ in range(batch)]
    sizes, hook = count_calls(segmentor.backbone)
    with torch.no_grad():
        ours = segmentor.slide_inference(inputs, metas)
        mine = list(sizes)
        sizes.clear()
        theirs = EncoderDecoder.slide_inference(segmentor, inputs, metas)
    hook.remove()
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)
    assert len(sizes) == windows and len(mine) == -(-windows // 3)
    assert sum(shape[0] for shape in mine) == windows * batch
    assert ours.shape == (batch, CLASSES, *size)
