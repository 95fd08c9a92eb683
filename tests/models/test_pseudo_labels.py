"""Labels from scores, mirrored labels and the report on them."""

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from mmseg.models.decode_heads import FCNHead
from torch import nn

from clouds_mmseg.models.segmentors.pseudo_labels import (
    PseudoLabelStatistics,
    as_scores,
    expected_iou,
    flip_label,
    label_from_scores,
    transport_shares,
    value_of_class,
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
    assert report['expected_iou'] is None
    assert report['class_iou'] == [None] * 3
    assert report['view_agreement'] is None
    assert statistics.pop() is None


def test_statistics_of_the_quality_without_truth():
    statistics = PseudoLabelStatistics(3)
    first = torch.tensor([[0, 0], [1, 255]])
    second = torch.tensor([[0, 0], [0, 0]])
    sure = torch.ones(2, 2)
    statistics.update(first, first, sure, torch.tensor([0.5, 0.2, 0.9]))
    statistics.update(second, second, sure, torch.tensor([0.7, 0.0, 0.0]))
    statistics.update_views(first, second)
    statistics.update_views(second, second)
    report = statistics.pop()
    # Class 2 is in no label: its value does not count.
    assert report['class_iou'][:2] == pytest.approx([0.6, 0.2])
    assert report['class_iou'][2] is None
    assert report['expected_iou'] == pytest.approx(0.4)
    assert report['view_agreement'] == 6 / 8
    assert statistics.pop() is None


@pytest.mark.parametrize('value', [torch.nan, torch.inf, -torch.inf])
def test_scores_that_are_not_finite_have_no_confidence(value):
    scores = torch.rand(1, 3, 2, 2)
    scores[0, 1, 0, 1] = value
    _, confidence = label_from_scores(scores)
    expected = torch.tensor([[False, True], [False, False]])
    assert torch.equal(confidence[0].isnan(), expected)


def test_expected_iou_of_certain_scores_is_the_iou():
    truth = torch.tensor([[0, 0, 1, 1], [0, 2, 2, 255]])
    scores = torch.nn.functional.one_hot(truth.clamp(max=2), 3)
    scores = scores.permute(2, 0, 1).float() * 7
    label = torch.tensor([[0, 1, 1, 1], [0, 2, 2, 255]])
    found = expected_iou(scores, label)
    # The ignored pixel has the scores of class 2.
    assert found.tolist() == pytest.approx([2 / 3, 2 / 3, 2 / 3])
    found = expected_iou(scores, torch.zeros_like(label))
    assert found.tolist() == pytest.approx([3 / 8, 0, 0])
    values = value_of_class(torch.tensor([0.1, 0.2, 0.3]), label)
    assert values[0].tolist() == pytest.approx([0.1, 0.2, 0.2, 0.2])
    assert values[1, 3] == 0


@given(st.integers(0, 10_000))
@settings(max_examples=20, deadline=None)
def test_expected_iou_by_its_definition(seed):
    generator = torch.Generator().manual_seed(seed)
    scores = torch.rand(4, 5, 6, generator=generator)
    label = torch.randint(0, 5, (5, 6), generator=generator)
    label[label == 4] = 255
    shares = scores / scores.sum(0)
    for k, value in enumerate(expected_iou(scores, label)):
        p, m = shares[k], (label == k).float()
        union = p.sum() + m.sum() - (p * m).sum()
        assert float(value) == pytest.approx(float((p * m).sum() / union))


@given(st.integers(0, 10_000), st.sampled_from(['uniform', 'scores']))
@settings(max_examples=20, deadline=None)
def test_transport_gives_each_class_its_share(seed, marginals):
    generator = torch.Generator().manual_seed(seed)
    scores = torch.rand(2, 3, 6, 7, generator=generator)
    plan = transport_shares(
        scores, marginals=marginals, epsilon=0.5, iterations=200
    )
    assert torch.allclose(plan.sum(1), torch.ones(2, 6, 7), atol=1e-5)
    expected = torch.full((2, 3), 1 / 3)
    if marginals == 'scores':
        expected = (scores / scores.sum(1, keepdim=True)).mean((2, 3))
    assert torch.allclose(plan.mean((2, 3)), expected, atol=1e-3)


def test_transport_gives_a_weak_class_its_pixels():
    scores = torch.full((1, 2, 4, 4), 0.2)
    scores[:, 0] = 0.8
    scores[0, :, 3] = torch.tensor([0.6, 0.4])[:, None]
    assert (scores.argmax(1) == 0).all()
    label = transport_shares(scores, iterations=50).argmax(1)[0]
    assert (label[3] == 1).all()


def test_logits_of_a_zoo_head_become_scores():
    logits = torch.randn(2, 4, 3, 5) * 3
    head = FCNHead(in_channels=4, channels=4, num_classes=4)
    scores = as_scores(head, logits)
    assert torch.allclose(scores, logits.softmax(1))
    # Of logits, the share of the best class would be no confidence.
    label, confidence = label_from_scores(scores)
    assert torch.equal(label, logits.argmax(1))
    assert torch.allclose(confidence, scores.amax(1))
    assert torch.equal(as_scores(nn.Identity(), logits), logits)
    cascade = nn.ModuleList([nn.Identity(), head])
    assert torch.equal(as_scores(cascade, logits), scores)
    assert torch.equal(as_scores(head, logits[:, :1]), logits[:, :1].sigmoid())
