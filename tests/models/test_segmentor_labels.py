"""Labels without scores: the same, in bounded memory; images of any sizes."""

import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.registry import DefaultScope
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample
from tensor_sizes import TensorSizes

from clouds_mmseg.models.mask2former import inference as semantic
from clouds_mmseg.models.mask2former.inference import (
    label_of_scores,
    semantic_labels,
    semantic_scores,
)

CLASSES = 5
FCN = dict(
    type='FCNHead',
    in_channels=192,
    in_index=2,
    channels=8,
    num_convs=1,
    norm_cfg=dict(type='BN'),
    num_classes=CLASSES,
)
CLOUDS = dict(
    type='CLOUDSHead',
    num_classes=CLASSES,
    feat_channels=32,
    out_channels=16,
    num_queries=7,
    num_encoder_layers=1,
    num_decoder_layers=1,
    encoder_ffn_channels=16,
    decoder_ffn_channels=16,
)


def build(head, **preprocessor):
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope('mmseg'):
        return MODELS.build(
            dict(
                type='DGSegmentor',
                data_preprocessor=dict(
                    type='SegDataPreProcessor',
                    mean=[120.0] * 3,
                    std=[60.0] * 3,
                    bgr_to_rgb=True,
                    **preprocessor,
                ),
                backbone=dict(
                    type='FrozenTIMMBackbone',
                    model_name='test_resnet',
                    weights=None,
                ),
                decode_head=head,
                train_cfg=dict(),
                test_cfg=dict(mode='whole'),
            )
        ).eval()


@pytest.fixture(scope='module')
def clouds():
    model = build(CLOUDS, test_cfg=dict(size_divisor=32))
    # Random weights give one class everywhere.
    with torch.no_grad():
        model.decode_head.cls_embed.weight *= 30
        model.decode_head.mask_embed[-1].weight *= 300
    return model


@pytest.fixture(scope='module')
def fcn():
    model = build(FCN, test_cfg=dict(size_divisor=32))
    with torch.no_grad():
        model.decode_head.conv_seg.weight.normal_()
    return model


def batch(*sizes, **meta):
    """Images of noise with a few grey areas, (3, H, W) uint8."""
    generator = torch.Generator().manual_seed(3)
    images, samples = [], []
    for index, size in enumerate(sizes):
        image = torch.randint(0, 256, (3, *size), generator=generator)
        image[:, : size[0] // 2, : size[1] // 3] //= 4
        images.append(image.to(torch.uint8))
        samples.append(
            SegDataSample(
                metainfo=dict(
                    img_shape=size,
                    ori_shape=size,
                    img_path=f'{index}.png',
                    **meta,
                )
            )
        )
    return dict(inputs=images, data_samples=samples)


def predict(model, keep, data, **test_cfg):
    model.test_cfg = ConfigDict(
        dict(mode='whole', keep_scores=keep) | test_cfg
    )
    with torch.no_grad():
        return model.test_step(data)


SLIDE = dict(mode='slide', crop_size=(64, 64), stride=(48, 40))
SHAPES = [
    dict(),
    dict(ori_shape=(201, 131)),
    dict(flip=True, flip_direction='horizontal'),
    dict(flip=True, flip_direction='vertical', ori_shape=(50, 60)),
]


@pytest.mark.parametrize('test_cfg', [dict(), SLIDE])
@pytest.mark.parametrize('shape', SHAPES)
@pytest.mark.parametrize('kind', ['clouds', 'fcn'])
def test_labels_are_those_of_the_scores(kind, shape, test_cfg, request):
    model = request.getfixturevalue(kind)
    found = []
    for keep in (True, False):
        data = batch((150, 170), (150, 170))
        for sample in data['data_samples']:
            sample.set_metainfo(shape)
        found.append(predict(model, keep, data, **test_cfg))
    for scored, labelled in zip(*found, strict=True):
        expected = scored.seg_logits.data.argmax(0, keepdim=True)
        label = labelled.pred_sem_seg.data
        assert 'seg_logits' not in labelled
        assert label.dtype == torch.int64
        assert len(expected.unique()) > 1
        assert torch.equal(scored.pred_sem_seg.data, expected)
        assert torch.equal(label, expected)


def test_scores_are_kept_unless_a_run_says_otherwise(clouds):
    clouds.test_cfg = ConfigDict(mode='whole')
    assert type(clouds).keep_scores
    with torch.no_grad():
        assert 'seg_logits' in clouds.test_step(batch((32, 64)))[0]
        clouds.keep_scores = False
        try:
            assert 'seg_logits' not in clouds.test_step(batch((32, 64)))[0]
            clouds.test_cfg.keep_scores = True
            assert 'seg_logits' in clouds.test_step(batch((32, 64)))[0]
        finally:
            del clouds.keep_scores


@pytest.mark.parametrize('test_cfg', [dict(), dict(SLIDE, window_batch=2)])
def test_all_scores_are_never_there(clouds, test_cfg, monkeypatch):
    monkeypatch.setattr(semantic, '_STRIP_BYTES', 4 * 7 * 16 * 8)
    height, width = 640, 64
    with TensorSizes() as sizes:
        predict(clouds, False, batch((height, width)), **test_cfg)
    assert CLASSES * height * width not in sizes.seen
    with TensorSizes() as sizes:
        predict(clouds, True, batch((height, width)), **test_cfg)
    assert CLASSES * height * width in sizes.seen


def test_resized_scores_are_never_all_there(clouds):
    data = batch((32, 64))
    data['data_samples'][0].set_metainfo(dict(ori_shape=(640, 1280)))
    with TensorSizes() as sizes:
        predict(clouds, False, data)
    assert max(sizes.seen) == 640 * 1280


def test_strips_give_the_labels_of_all_scores():
    torch.manual_seed(0)
    classes = torch.randn(2, 6, CLASSES + 1)
    masks = torch.randn(2, 6, 40, 50) * 4
    for size in ((160, 200), (40, 50), (133, 170)):
        scores = semantic_scores(classes, masks, size)
        labels = semantic_labels(classes, masks, size)
        assert torch.equal(labels, scores.argmax(1))


@pytest.mark.parametrize('size', [None, (20, 30), (41, 57), (15, 26)])
def test_ties_take_the_first_class(size):
    torch.manual_seed(2)
    scores = torch.randint(0, 3, (CLASSES, 20, 30)).float()
    expected = scores
    if size:
        expected = torch.nn.functional.interpolate(
            scores[None], size=size, mode='bilinear', align_corners=False
        )[0]
    assert torch.equal(
        label_of_scores(scores, size=size), expected.max(0).indices
    )


@pytest.mark.parametrize('keep', [True, False])
@pytest.mark.parametrize('kind', ['clouds', 'fcn'])
def test_sizes_may_differ_in_a_batch(kind, keep, request):
    model = request.getfixturevalue(kind)
    sizes = [(64, 96), (70, 131), (64, 96), (33, 40)]
    together = predict(model, keep, batch(*sizes))
    data = batch(*sizes)
    for index, (size, result) in enumerate(zip(sizes, together, strict=True)):
        one = {k: v[index : index + 1] for k, v in data.items()}
        alone = predict(model, keep, one)[0]
        assert result.img_path == f'{index}.png'
        assert result.pred_sem_seg.data.shape == (1, *size)
        assert torch.equal(result.pred_sem_seg.data, alone.pred_sem_seg.data)
        if keep:
            assert torch.equal(result.seg_logits.data, alone.seg_logits.data)
