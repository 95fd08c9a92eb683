import copy
import json

import pytest
import torch
from mmengine.config import ConfigDict
from mmseg.models import EncoderDecoder, SegDataPreProcessor
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample
from reference import PlainHead
from torch import nn

from clouds_mmseg.models import CLOUDSHead
from clouds_mmseg.models.mask2former.transformer_decoder import build_attn_mask
from clouds_mmseg.utils.errors import UserError

SIZES = [(48, 64), (33, 47), (61, 100)]


def close(a, b, tolerance=1e-4):
    torch.testing.assert_close(a, b, atol=tolerance, rtol=0)


@pytest.mark.parametrize('size', SIZES)
@pytest.mark.parametrize('batch', [1, 3])
def test_equals_the_plain_head(built_head, make_feats, size, batch):
    feats = make_feats(size, batch)
    reference = PlainHead(built_head.state_dict(), heads=4, groups=8)
    with torch.no_grad():
        ours, theirs = built_head(feats), reference.forward(feats)
        scores = built_head.predict(feats, [dict(img_shape=size)] * batch)
    assert len(ours[0]) == len(ours[1]) == 4
    for mine, other in zip(ours, theirs, strict=True):
        for a, b in zip(mine, other, strict=True):
            close(a, b)
    close(scores, reference.scores(ours[0][-1], ours[1][-1], size))


def test_text_head_equals_the_plain_head(built_text_head, make_feats):
    feats = make_feats((33, 47))
    classifier = built_text_head.cls_embed
    reference = PlainHead(
        built_text_head.state_dict(),
        heads=4,
        groups=8,
        text=classifier.text_embeddings,
        synonyms=classifier.num_synonyms,
    )
    with torch.no_grad():
        ours, theirs = built_text_head(feats), reference.forward(feats)
    for mine, other in zip(ours, theirs, strict=True):
        for a, b in zip(mine, other, strict=True):
            close(a, b)


def test_gradients_equal_the_plain_head(head, make_feats):
    """Through the sparse rows, the fused attention and the encoder."""
    feats = [x.requires_grad_() for x in make_feats((33, 47))]
    state = dict(head.named_parameters())
    reference = PlainHead(state, heads=4, groups=8)
    wanted = [*feats, *state.values()]
    direction = None
    grads = []
    for classes, masks in (head(feats), reference.forward(feats)):
        outputs = torch.cat([x.flatten() for x in [*classes, *masks]])
        if direction is None:
            direction = torch.randn_like(outputs) / len(outputs)
        grads.append(torch.autograd.grad((outputs * direction).sum(), wanted))
    for a, b in zip(*grads, strict=True):
        close(a, b, 1e-5)


def test_names_and_shapes_are_the_zoos(reference_dir):
    path = reference_dir / 'mask2former_r50_cityscapes_zoo_keys.json'
    zoo = {
        key.removeprefix('decode_head.'): shape
        for key, shape in json.loads(path.read_text()).items()
    }
    with torch.device('meta'):
        head = CLOUDSHead(in_channels=[256, 512, 1024, 2048], num_classes=19)
    ours = {k: list(v.shape) for k, v in head.state_dict().items()}
    assert ours == zoo


def test_an_encoder_decoder_finds_what_it_asks_for(head):
    assert head.num_classes == head.out_channels == 5
    assert head.align_corners is False


def test_every_parameter_learns(head, text_head, make_feats, make_samples):
    labels = torch.randint(0, 5, (2, 3, 4)).repeat_interleave(16, 1)
    labels = labels.repeat_interleave(16, 2)
    for any_head in (head, text_head):
        losses = any_head.loss(make_feats(), make_samples(labels), {})
        assert len(losses) == 12 and 'd2.loss_mask' in losses
        sum(losses.values()).backward()
        silent = [
            name
            for name, p in any_head.named_parameters()
            if p.grad is None or not p.grad.any()
        ]
        assert silent == []


def test_ignored_images_leave_no_parameter_without_gradient(
    head, make_feats, make_samples
):
    labels = torch.full((2, 48, 64), 255).byte()
    losses = head.loss(make_feats(), make_samples(labels), None)
    sum(losses.values()).backward()
    for name, p in head.named_parameters():
        assert p.grad is not None and p.grad.isfinite().all(), name


def test_training_lowers_the_loss(head, make_feats, make_samples, make_labels):
    torch.manual_seed(0)
    feats, samples = make_feats(), make_samples(make_labels())
    optimizer = torch.optim.AdamW(head.parameters(), 3e-3)
    totals = []
    for _ in range(25):
        total = sum(head.loss(feats, samples).values())
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        totals.append(total.item())
    assert totals[-1] < 0.75 * totals[0]


def test_missing_and_unequal_labels_are_named(head, make_feats, make_samples):
    samples = make_samples(torch.zeros(2, 48, 64).long())
    samples[1] = SegDataSample(metainfo=dict(img_path='b.png'))
    with pytest.raises(UserError, match='no gt_sem_seg.*b.png'):
        head.loss(make_feats(), samples)
    samples = [
        *make_samples(torch.zeros(1, 48, 64).long()),
        *make_samples(torch.zeros(1, 48, 60).long()),
    ]
    with pytest.raises(UserError, match=r'one size, got .*\(48, 60\)'):
        head.loss(make_feats(), samples)


@pytest.mark.parametrize('kind', ['head', 'text_head'])
def test_bfloat16_autocast(kind, request, make_feats, make_samples):
    any_head = request.getfixturevalue(kind)
    feats = make_feats((33, 47))
    metas = [dict(img_shape=(33, 47))] * 2
    reference = any_head.predict(feats, metas)
    labels = torch.randint(0, 5, (2, 33, 47))
    with torch.autocast('cpu', torch.bfloat16):
        classes, masks = any_head(feats)
        losses = any_head.loss(feats, make_samples(labels))
        scores = any_head.predict(feats, metas)
    assert masks[-1].dtype == torch.bfloat16
    assert {x.dtype for x in [*losses.values(), scores]} == {torch.float32}
    total = sum(losses.values())
    assert total.isfinite()
    total.backward()
    assert all(p.grad.isfinite().all() for p in any_head.parameters())
    # Nearly the same labels: most pixels agree.
    agreement = scores.argmax(1) == reference.argmax(1)
    assert agreement.float().mean() > 0.9


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs CUDA')
@pytest.mark.parametrize('dtype', [None, torch.bfloat16])
def test_cuda_equals_cpu(head, make_feats, make_samples, make_labels, dtype):
    feats, metas = make_feats((33, 47)), [dict(img_shape=(33, 47))] * 2
    reference = head.predict(feats, metas)
    head.cuda()
    feats = [x.cuda() for x in feats]
    with torch.autocast('cuda', dtype or torch.half, enabled=bool(dtype)):
        scores = head.predict(feats, metas)
        losses = head.loss(
            feats, [s.cuda() for s in make_samples(make_labels())]
        )
    sum(losses.values()).backward()
    assert all(p.grad.isfinite().all() for p in head.parameters())
    agreement = scores.cpu().argmax(1) == reference.argmax(1)
    assert agreement.float().mean() > (0.9 if dtype else 0.999)


def test_a_query_with_an_empty_mask_attends_everywhere():
    logits = torch.tensor([[[[-1.0, 2.0]], [[-1.0, -2.0]], [[0.0, -1e-9]]]])
    assert build_attn_mask(logits).tolist() == [
        [[False, True], [True, True], [True, True]]
    ]


@MODELS.register_module()
class _TinyPyramid(nn.Module):
    """Four maps; sides are rounded up, or down as in a patchifying stem."""

    def __init__(self, rounding):
        super().__init__()
        torch.manual_seed(0)
        padding = int(rounding == 'up')
        widths = [3, *TINY_CHANNELS]
        self.stages = nn.ModuleList(
            nn.Conv2d(a, b, s + padding, s, padding=padding * (s // 2))
            for a, b, s in zip(widths, widths[1:], (4, 2, 2, 2), strict=False)
        )

    def forward(self, x):
        maps = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return maps


TINY_CHANNELS = [8, 16, 24, 32]


def segmentor(rounding, head, test_cfg, padding=None):
    model = EncoderDecoder(
        backbone=dict(type='_TinyPyramid', rounding=rounding),
        decode_head=dict(
            type='CLOUDSHead',
            in_channels=TINY_CHANNELS,
            num_classes=5,
            feat_channels=16,
            out_channels=16,
            num_queries=6,
            num_heads=2,
            num_encoder_layers=1,
            encoder_ffn_channels=16,
            num_decoder_layers=2,
            decoder_ffn_channels=16,
            num_groups=4,
            num_points=2,
            classifier=head,
            loss=dict(num_points=32),
        ),
        train_cfg=dict(),
        test_cfg=ConfigDict(test_cfg),
        data_preprocessor=SegDataPreProcessor(
            mean=[0, 0, 0],
            std=[1, 1, 1],
            size=(96, 96),
            test_cfg=padding,
        ),
    )
    return model.eval()


def images(size, metas, seed=0):
    torch.manual_seed(seed)
    samples = [
        SegDataSample(metainfo={'ori_shape': size, 'img_shape': size, **meta})
        for meta in metas
    ]
    return dict(
        inputs=list(torch.randn(len(metas), 3, *size)), data_samples=samples
    )


WHOLE = dict(mode='whole')
SLIDE = dict(mode='slide', crop_size=(40, 44), stride=(30, 33))
LINEAR = dict(type='linear')


@pytest.mark.parametrize('rounding', ['up', 'down'])
@pytest.mark.parametrize('size', [(64, 96), (65, 83), (70, 61)])
@pytest.mark.parametrize('mode', [WHOLE, SLIDE])
@pytest.mark.parametrize('padding', [None, 32, 4])
@pytest.mark.parametrize('stated', [False, True])
def test_results_have_the_size_of_the_image(
    rounding, size, mode, padding, stated
):
    """Whole and slide, padded by the preprocessor or not, pad_shape or not."""
    padding = padding and dict(size_divisor=padding)
    model = _segmentors(rounding, mode['mode'], padding)
    metas = [dict(pad_shape=(*size, 3)) if stated else {} for _ in range(2)]
    batch = images(size, metas)
    data = model.data_preprocessor(copy.deepcopy(batch), False)
    padded = tuple(data['inputs'].shape[-2:])
    seen = []
    hook = model.backbone.register_forward_pre_hook(
        lambda _, args: seen.append(tuple(args[0].shape[-2:]))
    )
    with torch.no_grad():
        results = model.test_step(batch)
        hook.remove()
        # The same, told the truth about every single input.
        direct = _tell_the_truth(model, data['inputs'])
    assert set(seen) == {padded if mode is WHOLE else (40, 44)}
    for result, expected in zip(results, direct, strict=True):
        logits = result.seg_logits.data
        assert tuple(logits.shape) == (5, *size)
        close(logits, expected[:, : size[0], : size[1]], 1e-5)
        assert result.pred_sem_seg.data.shape == (1, *size)


def _tell_the_truth(model, inputs):
    def predict(x):
        metas = [dict(img_shape=tuple(x.shape[-2:]))] * len(x)
        return model.decode_head.predict(model.backbone(x), metas, None)

    if model.test_cfg['mode'] == 'whole':
        return predict(inputs)
    (ch, cw), (sh, sw) = SLIDE['crop_size'], SLIDE['stride']
    h, w = inputs.shape[-2:]
    total, count = 0, torch.zeros(h, w)
    for y in range(-(-max(h - ch, 0) // sh) + 1):
        for x in range(-(-max(w - cw, 0) // sw) + 1):
            bottom, right = min(y * sh + ch, h), min(x * sw + cw, w)
            at = (slice(bottom - ch, bottom), slice(right - cw, right))
            part = torch.zeros(len(inputs), 5, h, w)
            part[(..., *at)] = predict(inputs[(..., *at)])
            total = total + part
            count[at] += 1
    return total / count


_MODELS = {}


def _segmentors(rounding, mode, padding):
    key = (rounding, mode, str(padding))
    if key not in _MODELS:
        cfg = WHOLE if mode == 'whole' else SLIDE
        _MODELS[key] = segmentor(rounding, LINEAR, cfg, padding)
    return _MODELS[key]


def test_each_image_goes_back_to_its_own_size():
    model = _segmentors('up', 'whole', None)
    sizes = [(100, 80), (33, 30)]
    batch = images((64, 96), [dict(ori_shape=size) for size in sizes])
    with torch.no_grad():
        results = model.test_step(batch)
    for result, size in zip(results, sizes, strict=True):
        assert tuple(result.seg_logits.data.shape) == (5, *size)


def test_results_without_metainfo():
    model = _segmentors('up', 'whole', None)
    with torch.no_grad():
        results = model(torch.randn(1, 3, 61, 50), None, mode='predict')
        raw = model(torch.randn(1, 3, 61, 50), None, mode='tensor')
    assert results[0].seg_logits.data.shape == (5, 61, 50)
    assert len(raw) == 2 and len(raw[0]) == 3


def test_metainfo_that_does_not_fit_is_an_error(built_head, make_feats):
    with pytest.raises(UserError, match='fit none of the sizes'):
        built_head.predict(make_feats((48, 64)), [dict(img_shape=(96, 64))])


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (dict(in_channels=[8, 16, 24]), 'in_channels must be four'),
        (dict(in_channels=8), 'in_channels must be four'),
        (dict(strides=(4, 8, 16)), 'strides must be four'),
        (dict(strides=(4, 8, 8, 32)), 'strides must grow'),
        (dict(num_classes=0), 'num_classes must be a positive integer, got 0'),
        (dict(num_queries=2.5), 'num_queries must be a positive.*2.5'),
        (dict(num_heads=3), 'multiple of num_heads=3, got 32'),
        (dict(num_groups=5), 'multiple of num_groups=5, got 32'),
        (
            dict(feat_channels=6, num_heads=2, num_groups=2),
            'multiple of 4, got 6',
        ),
        (dict(classifier=dict(type='mlp')), "'linear' or 'text', got 'mlp'"),
        (dict(classifier=dict(type='linear', bias=1)), "no option.*'bias'"),
        (dict(loss=dict(num_points=-1)), r'loss\.num_points .*-1'),
    ],
)
def test_bad_arguments_are_named(tiny, change, message):
    with pytest.raises(UserError, match=message):
        CLOUDSHead(**{**tiny, **change})
