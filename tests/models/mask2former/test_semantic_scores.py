"""Inference predicts no unnecessary masks, and the same scores."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import PlainHead
from tensor_sizes import TensorSizes

from clouds_mmseg.models.mask2former import inference as module
from clouds_mmseg.models.mask2former.inference import (
    semantic_scores,
    upscaled_scores,
)

QUERIES, CLASSES = 6, 4


def draw(size, seed=0, batch=2):
    torch.manual_seed(seed)
    masks = torch.randn(batch, QUERIES, *size) * 4
    return torch.randn(batch, QUERIES, CLASSES + 1), masks


@given(
    st.integers(1, 5),
    st.integers(1, 5),
    st.integers(1, 5),
    st.integers(1, 500),
)
@settings(max_examples=25, deadline=None)
def test_strips_equal_whole_masks(height, width, scale, strip_bytes):
    classes, masks = draw((height, width))
    size = height * scale, width * scale
    expected = PlainHead({}, heads=1, groups=1).scores(classes, masks, size)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, '_STRIP_BYTES', strip_bytes)
        ours = semantic_scores(classes, masks, size)
    torch.testing.assert_close(ours, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize('size', [(33, 47), (32, 47), (36, 96), (9, 12)])
def test_other_sizes_equal_whole_masks(size):
    classes, masks = draw((9, 12))
    expected = PlainHead({}, heads=1, groups=1).scores(classes, masks, size)
    ours = semantic_scores(classes, masks, size)
    torch.testing.assert_close(ours, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize('scale', [1, 2, 3, 4])
@pytest.mark.parametrize('size', [(1, 1), (5, 3), (8, 16)])
def test_scores_for_an_export_are_the_same(size, scale):
    classes, masks = draw(size)
    expected = semantic_scores(classes, masks, [scale * x for x in size])
    found = upscaled_scores(classes, masks, scale)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_no_masks_at_full_size_are_made(monkeypatch):
    classes, masks = draw((16, 24), batch=1)
    monkeypatch.setattr(module, '_STRIP_BYTES', 4 * QUERIES * 24 * 4)
    with TensorSizes() as sizes:
        semantic_scores(classes, masks, (64, 96))
    # The scores themselves are the largest.
    assert max(sizes.seen) == CLASSES * 64 * 96
    assert sorted(set(sizes.seen))[-2] <= QUERIES * 18 * 26


def test_a_prediction_makes_one_set_of_masks(head, make_feats):
    feats = make_feats((64, 96), batch=1)
    masks = 7 * 16 * 24
    with torch.no_grad():
        classes, logits = head(feats)
        with TensorSizes() as sizes:
            last = head.last_prediction(feats)
        with TensorSizes() as all_sizes:
            head(feats)
    torch.testing.assert_close(last[0], classes[-1], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(last[1], logits[-1], atol=1e-5, rtol=1e-5)
    layers = len(head.transformer_decoder.layers)
    saved = all_sizes.seen.count(masks) - sizes.seen.count(masks)
    assert saved >= layers
