"""PMT and EoMT: heads of queries among the tokens of a ViT."""

import copy
import re
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import DefaultScope
from mmengine.structures import PixelData
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample
from test_configs import random_batch, self_training_batch

from clouds_mmseg.models.mask2former.mask_head import (
    stack_labels,
    stack_weights,
)
from clouds_mmseg.models.plain_mask import PMTHead
from clouds_mmseg.utils.errors import UserError

CONFIGS = Path(__file__).resolve().parents[2] / 'configs'
TOWER = dict(
    type='TIMMTower',
    model_name='vit_tiny_patch16_dinov3_qkvb',
    embed_dim=32,
    depth=3,
    num_heads=2,
    output='tokens',
    load_pretrained=False,
)
PMT = (
    dict(norm=True),
    dict(type='PMTHead', num_blocks=2, ffn_channels=32),
)
EOMT = (dict(frozen=False, open_blocks=2), dict(type='EoMTHead'))
KINDS = dict(pmt=PMT, eomt=EOMT)


def build(tower, head, segmentor='DGSegmentor', **more):
    cfg = dict(
        type=segmentor,
        data_preprocessor=dict(
            type='SegDataPreProcessor',
            bgr_to_rgb=True,
            size=(64, 96),
            pad_val=0,
            seg_pad_val=255,
        ),
        backbone={**TOWER, **tower},
        decode_head={
            'num_classes': 5,
            'num_queries': 6,
            'loss': dict(num_points=64),
            **head,
        },
        train_cfg=dict(),
        test_cfg=dict(mode='whole'),
        **more,
    )
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope('mmseg'):
        model = MODELS.build(Config(dict(model=cfg)).model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


@pytest.fixture(scope='module')
def built():
    return {kind: build(*parts).eval() for kind, parts in KINDS.items()}


@pytest.fixture(params=sorted(KINDS))
def model(request, built):
    return copy.deepcopy(built[request.param])


def image(height=64, width=96, batch=2):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(batch, 3, height, width, generator=generator)


def labelled():
    """Two samples with rectangles of five classes and an ignored border."""
    generator = torch.Generator().manual_seed(2)
    coarse = torch.randint(0, 5, (2, 2, 3), generator=generator)
    labels = coarse.repeat_interleave(32, 1).repeat_interleave(32, 2)
    labels[:, :2] = 255
    return [
        SegDataSample(gt_sem_seg=PixelData(data=label[None]))
        for label in labels
    ]


def probabilities(model, *values):
    model.decode_head.attn_mask_probs.copy_(torch.tensor(values))


@pytest.mark.parametrize('values', [(1, 1), (0, 1), (0, 0)])
def test_last_prediction_is_that_of_all(model, values):
    probabilities(model, *values)
    head = model.decode_head
    with torch.no_grad():
        classes, masks = head(model.extract_feat(image()))
        last = head.last_prediction(model.extract_feat(image()))
    assert len(classes) == len(masks) == 3
    assert masks[-1].shape == (2, 6, 16, 24)
    torch.testing.assert_close(last[0], classes[-1], atol=1e-5, rtol=0)
    torch.testing.assert_close(last[1], masks[-1], atol=1e-4, rtol=0)


def test_masks_are_random_in_training_only(model):
    x = image()

    def predict():
        with torch.no_grad():
            return model.decode_head(model.extract_feat(x))[1][-1]

    on, off = [], []
    for value in (1.0, 0.5, 0.49, 0.0):
        probabilities(model, value, value)
        (on if value >= 0.5 else off).append(predict())
    assert torch.equal(*on) and torch.equal(*off)
    assert not torch.equal(on[0], off[0])
    model.decode_head.train()
    if hasattr(model.decode_head, 'level_norms'):
        # Their statistics are not what is looked at.
        model.decode_head.level_norms.eval()
    probabilities(model, 0.5, 0.5)
    assert not torch.equal(predict(), predict())
    torch.manual_seed(3)
    first = predict()
    torch.manual_seed(3)
    assert torch.equal(predict(), first)
    for value in (0.0, 1.0):
        probabilities(model, value, value)
        assert torch.equal(predict(), predict())


def test_only_queries_are_masked(model):
    head = model.decode_head
    state = head.begin(model.extract_feat(image()))
    logits = torch.full((2, 6, 4, 6), -1.0)
    logits[0, 0, 1, 2] = 1
    mask = head._attn_mask(state, logits, 1.0)
    prefix, end = state.prefix, state.prefix + 6
    assert mask.shape == (2, 1, end + 24, end + 24)
    hidden = ~mask[:, 0]
    assert not hidden[:, :prefix].any() and not hidden[:, end:].any()
    assert not hidden[:, :, :end].any()
    assert hidden[0, prefix, end:].sum() == 23
    assert not hidden[0, prefix, end + 8]
    assert hidden[1, prefix:end, end:].all()


def test_losses_have_the_gradients_of_all_masks(model):
    """Masks of matched queries are predicted again: the same gradients."""
    samples = labelled()
    for sample in samples:
        sample.set_field(torch.rand(5), 'gt_region_weight')
    samples[0].set_field(torch.zeros(()), 'gt_dice_weight')
    head = model.decode_head

    def gradients(loss):
        torch.manual_seed(0)
        head.zero_grad()
        losses = loss(model.extract_feat(image()))
        sum(losses.values()).backward()
        names = ('query_feat.weight', 'upscale.0.conv1.weight')
        return losses, [head.get_parameter(n).grad.clone() for n in names]

    def plain(x):
        classes, masks = head(x)
        labels = stack_labels(samples)
        return head.criterion(classes, masks, labels, stack_weights(samples))

    losses, ours = gradients(lambda x: head.loss(x, samples))
    expected, theirs = gradients(plain)
    assert set(losses) == {
        f'{d}loss_{kind}'
        for d in ('d0.', 'd1.', '')
        for kind in ('cls', 'mask', 'dice')
    }
    for name, value in expected.items():
        torch.testing.assert_close(losses[name], value)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)


def test_without_dice_an_image_has_no_dice_loss(model):
    samples = labelled()
    for sample in samples:
        sample.set_field(torch.zeros(()), 'gt_dice_weight')
    losses = model.decode_head.loss(model.extract_feat(image()), samples)
    assert all((v == 0) == ('dice' in k) for k, v in losses.items())


@pytest.mark.parametrize('kind', sorted(KINDS))
def test_self_training_step(kind):
    tower, head = KINDS[kind]
    model = build(
        tower,
        head,
        'SelfTrainingSegmentor',
        label_dice=False,
        label_weight='region',
        teacher_views=['flip'],
    ).train()
    model.update_teacher()
    parts = set(model.teacher.module._modules)
    assert parts == (
        {'decode_head'} if kind == 'pmt' else {'decode_head', 'backbone'}
    )
    # The teacher predicts without chance.
    probabilities(model, 0.5, 0.5)
    model.update_teacher()
    assert model.teacher.module['decode_head'].attn_mask_probs.eq(0.5).all()
    batch = self_training_batch(5, 'x')
    first, second = (
        model.pseudo_labels([copy.deepcopy(batch['data_samples'][1])])
        for _ in range(2)
    )
    assert torch.equal(first[0], second[0])
    data = model.data_preprocessor(batch, True)
    losses = model.loss(data['inputs'], data['data_samples'])
    total = sum(losses.values())
    assert torch.isfinite(total)
    total.backward()
    assert model.decode_head.query_feat.weight.grad.abs().sum() > 0
    assert model.statistics.pop()['images'] == 1


@pytest.mark.parametrize(
    ('name', 'sizes'),
    [
        # Patches of 14 pixels: masks of stride 7, images of any size.
        (
            'vit_small_patch14_reg4_dinov2',
            dict(embed_dim=32, depth=3, num_heads=2, img_size=56),
        ),
        # No prefix tokens.
        ('test_vit', dict(class_token=False, global_pool='avg')),
    ],
)
def test_other_towers(name, sizes):
    tower = dict(model_name=name, depth=3, embed_dim=32, num_heads=2)
    model = build({**EOMT[0], **tower, **sizes}, EOMT[1]).eval()
    batch = random_batch(5, 'x')
    with torch.no_grad():
        results = model.test_step(batch)
    assert results[0].pred_sem_seg.data.shape == (1, 64, 96)
    head = model.decode_head
    patch = model.backbone.patch_size
    assert head.mask_stride == (7 if patch == 14 else 4)
    losses = model.loss(image(), batch['data_samples'])
    sum(losses.values()).backward()
    assert all(p.grad is not None for p in model.parameters())


def test_windows_and_checkpointing(model):
    model.test_cfg = Config(
        dict(mode='slide', crop_size=(64, 64), stride=(32, 32))
    )
    with torch.no_grad():
        results = model.test_step(random_batch(5, 'x'))
    assert results[0].seg_logits.data.shape == (5, 64, 96)
    tower = model.backbone.train()
    losses = []
    for on in (False, True):
        tower.model.set_grad_checkpointing(on)
        torch.manual_seed(0)
        samples = random_batch(5, 'x')['data_samples']
        model.zero_grad()
        loss = sum(model.loss(image(), samples).values())
        loss.backward()
        grad = model.decode_head.query_feat.weight.grad
        losses.append((loss.detach(), grad.clone()))
    torch.testing.assert_close(losses[0], losses[1], atol=1e-5, rtol=1e-4)


def test_rates_decay_from_the_last_block_of_eomt(built):
    model = built['eomt']
    cfg = Config.fromfile(CONFIGS / '_base_/schedules/eomt.py')
    with DefaultScope.overwrite_default_scope('mmseg'):
        wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
    names = {id(p): n for n, p in model.named_parameters()}
    rates = {
        names[id(p)]: group['lr']
        for group in wrapper.param_groups
        for p in group['params']
        # mmengine adds a group of its own.
        if id(p) in names
    }
    blocks = [f'backbone.model.blocks.{i}.norm1.weight' for i in range(3)]
    for name, power in zip(blocks, (2, 1, 0), strict=True):
        assert rates[name] == pytest.approx(1e-4 * 0.8**power)
    assert rates['decode_head.query_feat.weight'] == 1e-4


def test_text_classifier():
    classifier = dict(type='text', text_embeddings=torch.randn(5, 8))
    model = build(PMT[0], {**PMT[1], 'classifier': classifier})
    sum(model.loss(image(), labelled()).values()).backward()
    head = model.decode_head
    assert head.cls_embed.void_embedding.weight.grad.abs().sum() > 0
    model.eval()
    with torch.no_grad():
        classes, _ = head.last_prediction(model.extract_feat(image()))
    assert classes.shape == (2, 6, 6)


PYRAMID = dict(type='CLOUDSHead')


@pytest.mark.parametrize(
    ('tower', 'head', 'message'),
    [
        (dict(), PMT[1], r'model\.backbone\.norm=True'),
        (dict(norm=True), EOMT[1], 'give model.backbone.open_blocks'),
        (EOMT[0], PMT[1], 'open_blocks=2 leaves'),
        (dict(norm=True), PYRAMID, "output='tokens' is for PMTHead"),
        (dict(output='pyramid'), PMT[1], "output='tokens', got TIMMTower"),
        (dict(output='map'), PMT[1], "output must be 'pyramid'"),
        (dict(open_blocks=2), EOMT[1], 'frozen=False'),
        (
            dict(frozen=False, open_blocks=3),
            EOMT[1],
            'has 3 blocks, and at least one must remain',
        ),
        (
            dict(frozen=False, open_blocks=2, norm=True),
            EOMT[1],
            'without blocks and norm',
        ),
        (
            dict(norm=True, blocks=[0, 1, 2, 3]),
            PMT[1],
            r'block numbers in \[0, 2\]',
        ),
        (EOMT[0], dict(type='EoMTHead', num_blocks=4), 'num_blocks=4, but'),
        (PMT[0], {**PMT[1], 'num_heads': 3}, 'multiple of 4 num_heads'),
        (PMT[0], {**PMT[1], 'projection': 'conv'}, 'projection of PMTHead'),
        (PMT[0], {**PMT[1], 'num_block': 4}, "no option 'num_block'"),
        (PMT[0], {**PMT[1], 'loss': dict(dice=1)}, r'decode_head\.loss has'),
        (
            dict(norm=True, adapter=dict(type='Rein', rank=2, num_tokens=6)),
            PMT[1],
            'take them: give adapter.link=False',
        ),
        (
            dict(
                model_name='test_convnext',
                embed_dim=None,
                depth=None,
                num_heads=None,
            ),
            PMT[1],
            'are for plain ViTs',
        ),
    ],
)
def test_what_does_not_fit_is_refused_when_built(tower, head, message):
    tower = dict(tower)
    # None leaves an argument out.
    cut = {k: v for k, v in {**TOWER, **tower}.items() if v is not None}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr('test_plain_mask_heads.TOWER', cut)
        tower = {k: v for k, v in tower.items() if v is not None}
        with pytest.raises(UserError, match=message):
            build(tower, head)


def test_adapters_of_the_tower_are_trained_under_it():
    tower = dict(norm=True, adapter=dict(type='LoRA', rank=2))
    model = build(tower, PMT[1]).train()
    samples = labelled()
    sum(model.loss(image(), samples).values()).backward()
    trained = {n for n, p in model.named_parameters() if p.grad is not None}
    adapter = {f'backbone.{n}' for n in model.backbone.adapter_parameters()}
    assert adapter and adapter <= trained
    assert all(n in adapter or n.startswith('decode_head.') for n in trained)


def test_widths_must_agree():
    with pytest.raises(UserError, match=re.escape('in_channels=[32, 64]')):
        PMTHead(in_channels=[32, 64], strides=[16, 16], num_classes=2)
    with pytest.raises(UserError, match=r'16, 16\]: leave strides out$'):
        build(dict(norm=True), dict(PMT[1], strides=[16] * 3))
    with pytest.raises(UserError, match='cannot be halved'):
        PMTHead(in_channels=[32], strides=[18], num_classes=2)
