"""A moving average that moves all tensors at once."""

import torch
from mmengine.model import ExponentialMovingAverage


class ForeachAverage(ExponentialMovingAverage):
    """mmengine's moving average with one kernel for many tensors.

    Values, names and shapes are those of the class above it; the several
    hundred launches of an update become a few.
    """

    def update_parameters(self, model):
        """Move towards a model; copy it the first time.

        Args:
            model (nn.Module): With the parameters of the averaged one.
        """
        self._pairs = []
        super().update_parameters(model)
        if self._pairs:
            averages, sources = zip(*self._pairs, strict=True)
            torch._foreach_lerp_(averages, sources, self.momentum)
        # Not kept: these tensors are the model's.
        self._pairs = []

    def avg_func(self, averaged_param, source_param, steps):
        """Remember what is to be moved where.

        Args:
            averaged_param (Tensor): Of any shape; moved in the end.
            source_param (Tensor): Of the same shape.
            steps (int): Unused.
        """
        self._pairs.append((averaged_param, source_param))
