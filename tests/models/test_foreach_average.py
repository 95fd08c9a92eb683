import copy

import torch
from mmengine.model import ExponentialMovingAverage
from torch import nn

from clouds_mmseg.models.foreach_average import ForeachAverage


def make_model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))


def test_it_moves_as_mmengines_average_does():
    model = make_model()
    ours = ForeachAverage(model, momentum=0.1)
    theirs = ExponentialMovingAverage(copy.deepcopy(model), momentum=0.1)
    for _ in range(4):
        with torch.no_grad():
            for tensor in model.parameters():
                tensor.add_(torch.randn_like(tensor))
            model[1].running_mean += 1
        ours.update_parameters(model)
        theirs.update_parameters(model)
        for (name, a), (other, b) in zip(
            ours.state_dict().items(), theirs.state_dict().items(), strict=True
        ):
            assert name == other
            torch.testing.assert_close(a, b, rtol=0, atol=0)
    assert ours.steps == 4


def test_an_update_is_few_operations(monkeypatch):
    model = make_model()
    average = ForeachAverage(model, momentum=0.1)
    average.update_parameters(model)
    counts, original = [], torch._foreach_lerp_
    monkeypatch.setattr(
        torch,
        '_foreach_lerp_',
        lambda a, b, w: counts.append(len(a)) or original(a, b, w),
    )
    average.update_parameters(model)
    assert counts == [len(list(model.parameters()))]
    assert not average._pairs
