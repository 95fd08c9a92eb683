"""bfloat16 optimiser wrapper and polynomial schedule with restarts."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from mmengine.optim import OptimWrapper
from mmengine.optim.scheduler.lr_scheduler import LRSchedulerMixin
from mmengine.optim.scheduler.param_scheduler import _ParamScheduler
from mmengine.runner.amp import autocast
from mmseg.registry import OPTIM_WRAPPERS, PARAM_SCHEDULERS
from torch import nn
from torch.optim import Optimizer

from clouds_mmseg.utils.device import warn_of_emulated_bf16


@OPTIM_WRAPPERS.register_module()
class BF16OptimWrapper(OptimWrapper):
    """Optimiser wrapper that runs the forward pass under bfloat16 autocast.

    bfloat16 has the exponent range of float32: gradients do not underflow,
    and the loss needs no scaling. mmengine's ``AmpOptimWrapper`` is built
    around a loss scaler and refuses to run without a GPU.
    """

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        warn_of_emulated_bf16()

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        """Run the forward pass under autocast.

        Args:
            model: The model that is trained.

        Yields:
            Inside, matrix products run in bfloat16.
        """
        with super().optim_context(model), autocast(dtype=torch.bfloat16):
            yield


@PARAM_SCHEDULERS.register_module()
class PolyRestartLR(LRSchedulerMixin, _ParamScheduler):
    """Decay the rate polynomially to zero, once every ``period`` iterations.

    The stages of the official SYNTHIA training are two runs, each of which
    decays from the full rate; mmengine's ``PolyLR`` would continue from the
    last rate of the previous stage, which is zero.

    Args:
        optimizer: The optimiser.
        period: Iterations of a stage.
        power: Exponent of the decay.
        warmup: Iterations at the beginning of a stage during which the rate
            rises linearly to the decay curve.
        **kwargs: As for mmengine's schedulers. ``by_epoch=False`` must be
            given: the runner reads it from the config to find the end.

    Raises:
        ValueError: ``period`` is not positive, or ``by_epoch`` not False.
    """

    def __init__(
        self,
        optimizer: Optimizer | OptimWrapper,
        *,
        period: int,
        power: float = 0.9,
        warmup: int = 0,
        **kwargs: Any,
    ):
        if period < 1:
            raise ValueError(f'period must be at least 1, got {period}')
        self.period = period
        self.power = power
        self.warmup = warmup
        if kwargs.get('by_epoch', True):
            raise ValueError(
                'PolyRestartLR counts iterations: give by_epoch=False'
            )
        super().__init__(optimizer, **kwargs)

    def _get_value(self):
        """Return the rates of all groups, a function of the step alone."""
        step = self.last_step % self.period
        factor = (1 - step / self.period) ** self.power
        if step < self.warmup:
            factor *= (step + 1) / self.warmup
        return [base * factor for base in self.base_values]
