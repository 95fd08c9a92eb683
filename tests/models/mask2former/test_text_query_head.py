"""Queries of text: what the recorded outputs of tqdm do not show.

That the head computes what tqdm does: tests/parity.
"""

import open_clip
import pytest
import torch
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample

from clouds_mmseg.models import TextQueryHead, TIMMCLIPTower, TIMMTower
from clouds_mmseg.models.mask2former.criterion import (
    MaskCriterion,
    assign_fixed,
)
from clouds_mmseg.models.mask2former.text_prompts import (
    build_prompts,
    tokenize,
)
from clouds_mmseg.models.segmentors.dg_segmentor import DGSegmentor
from clouds_mmseg.utils.errors import UserError

NAMES = ['road', 'traffic light', 'sky']
DECODER = dict(width=16, num_heads=2, num_layers=1)
TEXT = dict(
    classes=NAMES,
    model_name='tiny-prompts',
    pretrained=None,
    decoder=DECODER,
)
HEAD = dict(
    feat_channels=16,
    out_channels=16,
    num_heads=2,
    num_groups=4,
    num_encoder_layers=1,
    num_decoder_layers=1,
    encoder_ffn_channels=8,
    decoder_ffn_channels=8,
)


@pytest.fixture(scope='module', autouse=True)
def _tiny_model():
    """A CLIP model whose prompts have 77 tokens, as real ones."""
    config = dict(
        embed_dim=24,
        vision_cfg=dict(image_size=32, patch_size=16, width=64, layers=1),
        text_cfg=dict(
            context_length=77, vocab_size=49408, width=16, heads=2, layers=1
        ),
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(open_clip.factory._MODEL_CONFIGS, 'tiny-prompts', config)
        yield


def tower(**options):
    options = dict(keep_initial=True, num_classes=24, img_size=64) | options
    return TIMMCLIPTower('test_vit', **options)


def head(**options):
    options = dict(text=TEXT, in_channels=[64] * 4) | options
    return TextQueryHead(
        num_classes=3, loss=dict(num_points=16), **HEAD, **options
    )


def samples(count, size=(64, 96)):
    found = []
    for _ in range(count):
        sample = SegDataSample(metainfo=dict(img_shape=size))
        label = torch.randint(0, 3, (1, *size))
        label[:, :8] = 255
        sample.gt_sem_seg = PixelData(data=label)
        found.append(sample)
    return found


def test_a_step_trains_all_but_the_frozen_parts():
    backbone, top = tower(), head()
    backbone.train()
    top.train()
    assert not top.text.encoder.training and not backbone.initial.training
    x = backbone(torch.randn(2, 3, 70, 100))
    # Of 4 x 6 whole patches; and the size is that of the image.
    assert [tuple(m.shape[-2:]) for m in x] == [
        (16, 24),
        (8, 12),
        (4, 6),
        (2, 3),
    ]
    assert x.size == (70, 100) and x.dense.shape == (2, 24, 4, 6)
    losses = top.loss(x, samples(2, (70, 100)))
    names = {n for n in losses if not n.startswith('d0.')}
    assert names == {
        *('loss_cls', 'loss_mask', 'loss_dice'),
        *('loss_text', 'loss_image', 'loss_score_map'),
    }
    # The tower has not moved yet.
    assert losses['loss_image'] == 0
    sum(losses.values()).backward()
    for name, parameter in (
        *backbone.named_parameters(),
        *top.named_parameters(),
    ):
        frozen = name.startswith(('initial.', 'text.encoder.'))
        assert (parameter.grad is None) == frozen, name
    with torch.no_grad():
        x = backbone.eval()(torch.randn(1, 3, 64, 64))
        # Inference does not compute the second tower.
        assert x.initial_image is None
        scores = top.eval().predict(x, [{}])
        labels = top.predict_labels(x, [{}])
    assert scores.shape == (1, 3, 64, 64)
    assert torch.equal(scores.argmax(1), labels)


def test_losses_can_be_left_out():
    x = tower(keep_initial=False)(torch.randn(1, 3, 64, 64))
    one = head(regularisation=dict(image=0, text=0))
    found = one.loss(x, samples(1, (64, 64)))
    assert 'loss_score_map' in found
    assert 'loss_text' not in found and 'loss_image' not in found
    with pytest.raises(UserError, match='keep_initial=True'):
        head().loss(x, samples(1, (64, 64)))


def test_ignored_pixels_count_in_the_denominator():
    x = tower(keep_initial=False)(torch.randn(1, 3, 64, 64))
    one = head(regularisation=dict(image=0, text=0))
    x = one.with_text(x)
    label = torch.zeros(1, 64, 64, dtype=torch.long)
    whole = one.regularise(x, label)['loss_score_map']
    scores = torch.nn.functional.interpolate(
        one.score_map(x) / 0.07, size=(64, 64), mode='bilinear'
    )
    each = torch.nn.functional.cross_entropy(scores, label, reduction='none')
    torch.testing.assert_close(whole, each.mean())
    label[:, 16:] = 255
    part = one.regularise(x, label)['loss_score_map']
    torch.testing.assert_close(part, each[:, :16].sum() / 64**2)


def test_any_criterion_takes_the_fixed_assignment():
    criterion = MaskCriterion(num_classes=3, assignment='fixed', num_points=16)
    labels = torch.tensor([[[0, 2], [255, 0]]])
    cls_logits = [torch.randn(1, 6, 4)]
    masks = [torch.randn(1, 6, 2, 2)]
    state = torch.get_rng_state()
    first = criterion(cls_logits, masks, labels)
    torch.set_rng_state(state)
    # Nothing is drawn for the matching, and nothing depends on it.
    again = criterion([cls_logits[0]], masks, labels)
    assert first == again
    matches = assign_fixed(torch.tensor([[True, False, True]]), 7, 2)
    assert matches.query.tolist() == [0, 2, 3, 5] * 2
    assert matches.target.tolist() == [0, 2, 0, 2] * 2
    assert matches.output.tolist() == [0] * 4 + [1] * 4
    with pytest.raises(UserError, match='num_queries=3'):
        assign_fixed(torch.ones(1, 3, dtype=torch.bool), 2, 1)
    with pytest.raises(UserError, match="got 'cheapest'"):
        MaskCriterion(num_classes=3, assignment='cheapest')


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(num_queries=100), 'one query for each class'),
        (dict(queries='learned'), 'of text: leave queries'),
        (dict(text=dict(TEXT, classes=['road'])), 'num_classes=3'),
        (dict(text=dict(TEXT, clases=1)), 'clases'),
        (dict(regularisation=dict(visual=1)), 'text, image, score_map'),
        (dict(regularisation=dict(text=-1)), 'not be negative'),
        (dict(text=dict(TEXT, num_contexts=12)), 'room for a name'),
        (dict(text=dict(TEXT, context_length=99)), '77 positions'),
        (dict(text=dict(TEXT, template='a road')), "one '{}'"),
    ],
)
def test_bad_options_of_the_head(options, message):
    with pytest.raises(UserError, match=message):
        head(**options)


def test_names_that_are_too_long_are_not_cut():
    tokenizer = open_clip.get_tokenizer('tiny-prompts')
    ids = tokenize(tokenizer, NAMES, 5)
    assert ids.shape == (3, 5) and ids[1].tolist()[3] == 49407
    with pytest.raises(UserError, match="'a very long name' has 6 tokens"):
        tokenize(tokenizer, ['a very long name'], 5)


def test_bad_options_of_the_tower():
    for options, message in (
        (dict(pyramid='fpn'), "'learned' or 'resize'"),
        (dict(frozen=True), "pyramid='resize' and keep_initial=False"),
        (dict(global_pool='avg'), 'no linear projection'),
    ):
        with pytest.raises(UserError, match=message):
            tower(**options)
    frozen = tower(frozen=True, pyramid='resize', keep_initial=False)
    x = frozen(torch.randn(1, 3, 64, 64))
    assert [m.shape[-1] for m in x] == [16, 8, 4, 2]
    assert not x.dense.requires_grad


@pytest.mark.parametrize(
    ('backbone', 'message'),
    [
        (dict(type='TIMMTower', frozen=True), 'the type TIMMCLIPTower'),
        (dict(type='TIMMCLIPTower', num_classes=20), '24 dimensions, .* 20'),
        (
            dict(type='TIMMCLIPTower', num_classes=24),
            r'keep_initial=True, or .*image=0',
        ),
    ],
)
def test_segmentor_compares_tower_and_text(backbone, message):
    with pytest.raises(UserError, match=message):
        DGSegmentor(
            backbone=dict(backbone, model_name='test_vit', img_size=64),
            decode_head=dict(
                type='TextQueryHead', num_classes=3, text=TEXT, **HEAD
            ),
        )


def test_maps_without_text_are_refused():
    x = TIMMTower('test_vit', img_size=64)(torch.randn(1, 3, 64, 64))
    with pytest.raises(UserError, match='TIMMCLIPTower'):
        head()(x)


def test_random_text_is_the_same_from_the_same_seed():
    torch.manual_seed(3)
    first = build_prompts(**TEXT)
    torch.manual_seed(3)
    again = build_prompts(**TEXT)
    assert torch.equal(first.encode(), again.encode())
    # Prompts differ by their names, and the fixed sentences from them.
    assert (first.encode()[0] - first.encode()[1]).abs().max() > 1e-4
    assert not first.fixed().requires_grad
    torch.testing.assert_close(first.fixed().norm(dim=1), torch.ones(3))
