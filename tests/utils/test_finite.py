import math

import pytest
import torch
from torch import nn

from clouds_mmseg.utils.finite import (
    NonFiniteError,
    listed,
    nonfinite_weights,
    require_finite_scores,
)


@pytest.mark.parametrize('value', [math.nan, math.inf, -math.inf])
def test_tensors_that_are_not_finite_are_counted(value):
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    model.register_buffer('mask', torch.full((2, 2), -math.inf))
    assert nonfinite_weights(model) == {}
    with torch.no_grad():
        model[0].weight[1, 2] = value
        model[1].running_var[:3] = value
        model[1].num_batches_tracked += 5
    assert nonfinite_weights(model) == {
        '0.weight': (9, 108),
        '1.running_var': (3, 4),
    }


def test_large_weights_are_finite_and_masks_may_be_infinite():
    model = nn.Linear(3, 2)
    with torch.no_grad():
        # The sum of squares overflows.
        model.weight.fill_(1e30)
    model.register_buffer('empty', torch.zeros(0))
    model.register_buffer('mask', torch.tensor([0.0, -math.inf]))
    assert nonfinite_weights(model) == {}
    model.mask[0] = math.nan
    assert nonfinite_weights(model) == {'mask': (1, 2)}


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
def test_scores_whose_best_means_nothing(dtype):
    scores = torch.randn(3, 4, 5).to(dtype)
    # A class that is excluded everywhere.
    scores[1] = -math.inf
    require_finite_scores(scores, 'a.png')
    for value in (math.nan, math.inf):
        broken = scores.clone()
        broken[2, 1, :2] = value
        with pytest.raises(NonFiniteError, match=r'a\.png.*2 of 20 pixels'):
            require_finite_scores(broken, 'a.png')
    broken = scores.clone()
    broken[:, 0, 0] = -math.inf
    with pytest.raises(NonFiniteError, match='an image.*1 of 20 pixels'):
        require_finite_scores(broken, None)


def test_long_lists_are_cut():
    names = [str(i) for i in range(10)]
    assert listed(names[:2]) == '0, 1'
    assert listed(names) == '0, 1, 2, 3, 4, 5, 6, 7 and 2 more'
