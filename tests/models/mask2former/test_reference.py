"""The reference implementations themselves equal recorded outputs."""

import torch
from reference import PlainCriterion, PlainHead, losses_of, match_one

from clouds_mmseg.conversion.convert import to_ours
from clouds_mmseg.conversion.layouts import detect
from clouds_mmseg.models.mask2former.criterion import MaskCriterion


def test_reference_head_equals_the_recorded_zoo_head(load_reference):
    config, t = load_reference('mask2former_zoo_tiny.safetensors')
    state = {
        k.removeprefix('state.'): v
        for k, v in t.items()
        if k.startswith('state.')
    }
    reference = PlainHead(
        state, heads=config['heads'], groups=config['groups']
    )
    classes, masks = reference.forward([t[f'feat.{i}'] for i in range(4)])
    for i, (c, m) in enumerate(zip(classes, masks, strict=True)):
        torch.testing.assert_close(c, t[f'cls.{i}'], atol=1e-4, rtol=0)
        torch.testing.assert_close(m, t[f'mask.{i}'], atol=1e-4, rtol=0)
    scores = reference.scores(classes[-1], masks[-1], config['hw'])
    torch.testing.assert_close(scores, t['seg_logits'], atol=1e-4, rtol=0)


def test_reference_head_equals_the_recorded_text_head(load_reference):
    config, t = load_reference('clouds_official_head_text_tiny.safetensors')
    theirs = {
        k.removeprefix('state.'): v
        for k, v in t.items()
        if k.startswith('state.')
    }
    ours = to_ours(theirs, detect(theirs)).weights
    state = {k.removeprefix('decode_head.'): v for k, v in ours.items()}
    text, void = t['text_classifier'].split([len(t['text_classifier']) - 1, 1])
    state['cls_embed.void_embedding.weight'] = void
    reference = PlainHead(
        state,
        heads=config['heads'],
        groups=32,
        text=text,
        synonyms=config['num_templates'],
    )
    classes, masks = reference.forward(
        [t[f'feat.res{i}'] for i in (2, 3, 4, 5)]
    )
    torch.testing.assert_close(
        classes[-1], t['pred_logits'], atol=1e-4, rtol=0
    )
    torch.testing.assert_close(masks[-1], t['pred_masks'], atol=1e-4, rtol=0)


def test_reference_losses_equal_the_recorded_criterion(load_reference):
    config, t = load_reference('clouds_official_criterion.safetensors')
    labels = [t['label_map.0'], t['label_map.1']]
    pairs = [
        match_one(
            t['pred_logits'][b],
            t['pred_masks'][b],
            labels[b],
            t[f'match_point_coords.{b}'],
            (2, 5, 5),
        )
        for b in range(2)
    ]
    for b, (query, target) in enumerate(pairs):
        assert query.equal(t[f'match_query.{b}'])
        assert target.equal(t[f'match_target.{b}'])
    losses = losses_of(
        t['pred_logits'],
        t['pred_masks'],
        labels,
        pairs,
        t['loss_point_coords'],
        config['eos_coef'],
    )
    for name, loss in zip(('ce', 'mask', 'dice'), losses, strict=True):
        torch.testing.assert_close(
            loss, t[f'loss_{name}'][0], atol=1e-5, rtol=0
        )


def test_the_reference_sum_of_losses_is_ours(make_labels):
    """Each draws its own points: enough of them that it hardly matters."""
    torch.manual_seed(0)
    cls_logits = [torch.randn(2, 9, 6) for _ in range(3)]
    mask_logits = [torch.randn(2, 9, 6, 8) * 2 for _ in range(3)]
    labels = make_labels()
    ours = MaskCriterion(num_classes=5, num_points=4000)
    ours = sum(ours(cls_logits, mask_logits, labels).values())
    reference = PlainCriterion(num_points=4000)(
        cls_logits, mask_logits, labels
    )
    torch.testing.assert_close(reference, ours, rtol=0.02, atol=0)
