"""Windows that go through the network together, and labels of scores."""

import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.registry import DefaultScope
from mmseg.models import EncoderDecoder
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample
from tensor_sizes import TensorSizes

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


@pytest.mark.parametrize(
    'meta',
    [
        None,
        dict(ori_shape=(20, 30)),
        dict(ori_shape=(41, 57)),
        dict(ori_shape=(15, 26), padding_size=[1, 3, 2, 3]),
        dict(
            ori_shape=(40, 44),
            padding_size=[9, 9, 9, 9],
            img_padding_size=[0, 8, 0, 0],
        ),
        dict(ori_shape=(20, 30), flip=True, flip_direction='horizontal'),
        dict(ori_shape=(10, 15), flip=True, flip_direction='vertical'),
    ],
)
@pytest.mark.parametrize('classes', [1, CLASSES])
def test_results_equal_the_framework(segmentor, meta, classes):
    torch.manual_seed(2)
    # Whole numbers: ties, where both must take the first class.
    scores = torch.randint(0, 3, (2, classes, 20, 30)).float()
    segmentor.decode_head.threshold = 0.7
    results = []
    for kind in (type(segmentor), EncoderDecoder):
        samples = meta and [SegDataSample(metainfo=meta) for _ in scores]
        found = kind.postprocess_result(segmentor, scores, samples)
        assert samples is None or found is samples
        results.append(found)
    for ours, theirs in zip(*results, strict=True):
        assert ours.keys() == theirs.keys()
        for key in ours.keys():
            torch.testing.assert_close(
                ours.get(key).data, theirs.get(key).data, rtol=0, atol=0
            )


def test_scores_of_their_size_are_read_once(segmentor):
    scores = torch.rand(1, CLASSES, 20, 30)
    samples = [SegDataSample(metainfo=dict(ori_shape=(20, 30)))]
    with TensorSizes() as sizes:
        segmentor.postprocess_result(scores, samples)
    assert samples[0].seg_logits.data.data_ptr() == scores.data_ptr()
    # All else are views: of these calls each would read the scores.
    # Beside them whether the best score is finite, of the least and largest.
    assert max(sizes.seen) <= 2 and sizes.calls.count('max') == 1
    slow = ('argmax', 'upsample_bilinear2d', 'clone', 'copy_')
    assert not set(sizes.calls) & set(slow)
