"""Weights of classes in the loss, and names of options."""

import math

import pytest
import torch
import torch.nn.functional as F

from clouds_mmseg.models import CLOUDSHead
from clouds_mmseg.models.mask2former.criterion import MaskCriterion, Matches
from clouds_mmseg.utils.errors import UserError

CLASSES, QUERIES = 3, 4
WEIGHTS = [1.0, 2.0, 0.5]


def loss_of(logits, pairs, **options):
    """The class loss of two images and one output, unweighted."""
    criterion = MaskCriterion(num_classes=CLASSES, num_points=8, **options)
    columns = [torch.tensor(column) for column in zip(*pairs, strict=True)]
    matches = Matches(torch.zeros_like(columns[0]), *columns)
    return criterion, criterion.class_losses([logits], matches)


@pytest.fixture
def logits():
    torch.manual_seed(0)
    return torch.randn(2, QUERIES, CLASSES + 1) * 2


PAIRS = [(0, 1, 0), (0, 3, 1), (1, 0, 1), (1, 2, 2)]  # image, query, class


@pytest.mark.parametrize(
    'options, weights, loss_weight',
    [
        (dict(), [1, 1, 1, 0.1], 2.0),
        (dict(class_weight=4.0), [1, 1, 1, 0.1], 4.0),
        (dict(class_weight=WEIGHTS), [*WEIGHTS, 0.1], 2.0),
        (
            dict(class_weight=WEIGHTS, no_object_weight=0.3),
            [*WEIGHTS, 0.3],
            2.0,
        ),
        # As mmdet's config writes it.
        (
            dict(class_weight=[*WEIGHTS, 0.2], class_loss_weight=5.0),
            [*WEIGHTS, 0.2],
            5.0,
        ),
    ],
)
def test_it_is_the_weighted_mean_of_torch(
    logits, options, weights, loss_weight
):
    targets = torch.full((2, QUERIES), CLASSES)
    for image, query, target in PAIRS:
        targets[image, query] = target
    expected = F.cross_entropy(
        logits.flatten(0, 1), targets.flatten(), torch.tensor(weights).float()
    )
    criterion, found = loss_of(logits, PAIRS, **options)
    torch.testing.assert_close(found, expected[None])
    assert criterion.weights == (loss_weight, 5.0, 5.0)


def test_by_hand():
    # Every class is as probable as the others, but class 1 of image 0.
    logits = torch.zeros(2, QUERIES, CLASSES + 1)
    logits[0, 3, 1] = math.log(5)  # 5 / 8
    _, found = loss_of(logits, PAIRS, class_weight=[*WEIGHTS, 0.25])
    even, sure = math.log(4), math.log(8 / 5)
    total = 1.0 * even + 2.0 * sure + 2.0 * even + 0.5 * even
    total += 4 * 0.25 * even
    assert found.item() == pytest.approx(total / 6.5, rel=1e-6)


def test_nothing_matched_and_no_object_without_weight(logits):
    _, found = loss_of(logits, [(0, 0, 0)], class_weight=[0.0, 1.0, 1.0, 0.0])
    assert found.item() == 0


@pytest.mark.parametrize(
    'options, message',
    [
        (
            dict(class_weight=[1.0, 2.0]),
            '2 values for 3 classes; give 3',
        ),
        (dict(class_weight=[1, 2, 3, 4, 5]), '5 values'),
        (dict(class_weight=[1.0, -2.0, 1.0]), 'negative.*-2.0'),
        (dict(class_weight=[1.0, float('nan'), 1.0]), 'nan'),
        (dict(class_weight=-1.0), 'class_weight must not be negative'),
        (dict(class_weight='high'), "'high'"),
        (dict(class_weight=[0, 0, 0, 0]), 'all of .* zero'),
        (
            dict(class_weight=[1, 1, 1, 0.1], no_object_weight=0.2),
            'no_object_weight 0.2',
        ),
        (dict(class_loss_weight=2.0), 'class_loss_weight is for'),
        (dict(clas_weight=1.0), "'clas_weight'; perhaps 'class_weight'"),
        (dict(loss_weight=1.0), "no option 'loss_weight'; here it is class_w"),
    ],
)
def test_one_error(options, message):
    with pytest.raises(UserError, match=message):
        MaskCriterion(num_classes=CLASSES, **options)


@pytest.mark.parametrize(
    'option, message',
    [
        (dict(num_querys=9), "'num_querys'; perhaps 'num_queries'"),
        (dict(loss_cls=dict()), 'here it is loss=dict.class_weight'),
        (dict(transformer_decoder=dict()), 'num_decoder_layers'),
        (dict(train_cfg=dict()), 'loss=dict.num_points'),
        (dict(threshold=1.5), 'threshold.* between 0 and 1, got 1.5'),
    ],
)
def test_options_of_other_heads(option, message):
    with pytest.raises(UserError, match=message):
        CLOUDSHead(in_channels=[8] * 4, num_classes=CLASSES, **option)
