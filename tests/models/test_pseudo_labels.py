"""Labels from scores, mirrored labels and the report on them."""

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings

from clouds_mmseg.models.segmentors.pseudo_labels import (
    PseudoLabelStatistics,
    flip_label,
    label_from_scores,
)


def random_scores(seed, n=2, c=5, h=6, w=7):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(n, c, h, w, generator=generator)


def test_label_is_argmax_and_confidence_its_share():
    scores = random_scores(0)
    label, confidence = label_from_scores(scores)
    assert torch.equal(label, scores.argmax(1))
    assert torch.allclose(confidence, scores.amax(1) / scores.sum(1))


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 1000), st.floats(0, 1))
def test_threshold_ignores_exactly_the_pixels_below_it(seed, threshold):
    scores = random_scores(seed)
    plain, confidence = label_from_scores(scores)
    label, _ = label_from_scores(scores, threshold)
    below = confidence < threshold
    assert (label[below] == 255).all()
    assert torch.equal(label[~below], plain[~below])


def test_pixels_that_no_mask_claims_have_no_confidence():
    label, confidence = label_from_scores(torch.zeros(1, 3, 2, 2), 0.1)
    assert (confidence == 0).all()
    assert (label == 255).all()


@pytest.mark.parametrize(
    'direction, pixel',
    [
        (None, (0, 1)),
        ('horizontal', (0, 2)),
        ('vertical', (1, 1)),
        ('diagonal', (1, 2)),
    ],
)
def test_flip_moves_a_pixel(direction, pixel):
    label = torch.zeros(2, 4, dtype=torch.long)
    label[0, 1] = 1
    assert flip_label(label, direction)[pixel] == 1
    assert torch.equal(
        flip_label(flip_label(label, direction), direction), label
    )


def test_unknown_flip_is_an_error():
    with pytest.raises(ValueError, match="'sideways'"):
        flip_label(torch.zeros(2, 2), 'sideways')


def test_statistics_of_two_images():
    statistics = PseudoLabelStatistics(3)
    assert statistics.pop() is None
    before = torch.tensor([[0, 1], [2, 255]])
    after = torch.tensor([[0, 2], [255, 1]])
    statistics.update(before, after, torch.full((2, 2), 0.5))
    statistics.update(after, after, torch.full((2, 2), 1.0))
    report = statistics.pop()
    assert report['images'] == 2
    assert report['kept'] == 6 / 8
    assert report['confidence'] == 0.75
    # The first image keeps two pixels labelled, of which one agrees.
    assert report['agreement'] == 4 / 5
    assert report['histogram'] == pytest.approx([2 / 6, 2 / 6, 2 / 6])
    assert statistics.pop() is None


@pytest.mark.parametrize('value', [torch.nan, torch.inf, -torch.inf])
def test_scores_that_are_not_finite_have_no_confidence(value):
    scores = torch.rand(1, 3, 2, 2)
    scores[0, 1, 0, 1] = value
    _, confidence = label_from_scores(scores)
    expected = torch.tensor([[False, True], [False, False]])
    assert torch.equal(confidence[0].isnan(), expected)
