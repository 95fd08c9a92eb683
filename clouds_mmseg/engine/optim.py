"""Optimiser wrappers and learning rate schedules, and the replay of these.

mmengine's schedulers compute each rate from the previous one. Stepping them
is the only way to obtain the rates of an uninterrupted run bit for bit.
Groups with equal settings have the same rates, so one group of each kind is
stepped: the 425 groups of a shipped config are of 3 kinds.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
from mmengine.optim import DefaultOptimWrapperConstructor, OptimWrapper
from mmengine.optim.scheduler.lr_scheduler import LRSchedulerMixin
from mmengine.optim.scheduler.param_scheduler import _ParamScheduler
from mmengine.runner.amp import autocast
from mmseg.registry import (
    OPTIM_WRAPPER_CONSTRUCTORS,
    OPTIM_WRAPPERS,
    PARAM_SCHEDULERS,
)
from torch import nn
from torch.optim import Optimizer

from clouds_mmseg.utils.device import warn_of_emulated_bf16
from clouds_mmseg.utils.errors import UserError

# Entries of a parameter group that are not settings.
NO_SETTINGS = ('params', 'param_names')


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
        UserError: ``period`` is not positive, or ``by_epoch`` not False.
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
            raise UserError(f'period must be at least 1, got {period}')
        self.period = period
        self.power = power
        self.warmup = warmup
        if kwargs.get('by_epoch', True):
            raise UserError(
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


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class LayerDecayConstructor(DefaultOptimWrapperConstructor):
    """Let the learning rate of a trained tower decay from layer to layer.

    The rate of layer i of L is ``layer_decay ** (L - i)`` of that of the
    head; the patch embedding is layer 0. The layers are those of timm's
    ``group_matcher``.

    Args:
        optim_wrapper_cfg: Of the optimiser.
        paramwise_cfg: As for mmengine's ``DefaultOptimWrapperConstructor``,
            and ``layer_decay`` in (0, 1].

    Raises:
        UserError: ``layer_decay`` is missing or out of range, or the
            backbone is frozen or does not know its layers.
    """

    def __init__(
        self, optim_wrapper_cfg: dict, paramwise_cfg: dict | None = None
    ):
        super().__init__(optim_wrapper_cfg, paramwise_cfg)
        decay = self.paramwise_cfg.get('layer_decay')
        if not isinstance(decay, (int, float)) or not 0 < decay <= 1:
            raise UserError(
                'LayerDecayConstructor needs '
                'optim_wrapper.paramwise_cfg.layer_decay in (0, 1], got '
                f'{decay!r}'
            )
        self.layer_decay = decay

    def add_params(
        self,
        params: list[dict],
        module: nn.Module,
        prefix: str = '',
        **kwargs: Any,
    ) -> None:
        """Add the groups of a module; of the whole model also the decay."""
        super().add_params(params, module, prefix, **kwargs)
        if prefix:
            return
        backbone = getattr(module, 'backbone', None)
        if backbone is None or not hasattr(backbone, 'layer_numbers'):
            raise UserError(
                'LayerDecayConstructor: the backbone does not know its '
                'layers; a TIMMTower does'
            )
        numbers, last = backbone.layer_numbers()
        layers = {
            id(p): numbers[name]
            for name, p in backbone.named_parameters()
            if name in numbers
        }
        decayed = [g for g in params if id(g['params'][0]) in layers]
        if not decayed:
            raise UserError(
                'LayerDecayConstructor: no layer of the backbone is trained, '
                'so that there is nothing to decay; give frozen=False, or '
                'leave the constructor out'
            )
        for group in decayed:
            layer = layers[id(group['params'][0])]
            rate = group.get('lr', self.base_lr)
            group['lr'] = rate * self.layer_decay ** (last - layer)


class RateChange(NamedTuple):
    """First iteration at which two schedules differ.

    Attributes:
        name: ``'lr'`` or ``'momentum'``.
        iteration: Counted from 1.
        was: The rate of the first schedule there.
        now: The rate of the second schedule there.
    """

    name: str
    iteration: int
    was: float
    now: float


class _GroupHolder(Optimizer):
    """Optimiser without parameters, for schedulers to act on its groups."""

    def step(self, closure=None) -> None:
        """Do nothing; schedulers count its calls."""


def hold_groups(groups: Sequence[dict], defaults: dict) -> Optimizer:
    """Build an optimiser without parameters, to build schedulers on.

    Args:
        groups: Parameter groups; their parameters are not used.
        defaults: ``defaults`` of the real optimiser: the momentum
            schedulers look there for what to change.

    Returns:
        With the same settings in groups of no parameters.
    """
    holder = _GroupHolder([dict(params=[])], dict(defaults))
    holder.param_groups = [
        {k: v for k, v in group.items() if k not in NO_SETTINGS}
        for group in groups
    ]
    return holder


def can_replay(schedulers: list | dict | None) -> bool:
    """Return whether the rates are a function of the iteration alone.

    Args:
        schedulers: As the runner has them.

    Returns:
        False for schedulers that count epochs or watch a metric, and for
        several optimisers.
    """
    return schedulers is None or (
        isinstance(schedulers, list)
        and all(isinstance(s, _ParamScheduler) for s in schedulers)
        and not any(
            s.by_epoch or getattr(s, 'need_val_args', False)
            for s in schedulers
        )
    )


class Replay:
    """Copies of schedulers that step copies of some parameter groups.

    Args:
        schedulers: At any step. They are not changed.
        groups: All groups that they act on.
        chosen: Indices of the groups to step.
    """

    def __init__(
        self,
        schedulers: Sequence[_ParamScheduler],
        groups: Sequence[dict],
        chosen: Sequence[int],
    ):
        self.groups = [
            {k: v for k, v in groups[i].items() if k not in NO_SETTINGS}
            for i in chosen
        ]
        step = SimpleNamespace(_with_counter=True)
        holder = SimpleNamespace(
            param_groups=self.groups, step=step, _global_step=0
        )
        self.schedulers = []
        for scheduler in schedulers:
            # Not copy.copy: it would step the copy of a torch optimiser.
            stepped = object.__new__(type(scheduler))
            stepped.__dict__.update(scheduler.__dict__, optimizer=holder)
            for name in ('base_values', '_last_value'):
                values = getattr(scheduler, name)
                setattr(stepped, name, [values[i] for i in chosen])
            self.schedulers.append(stepped)

    def step(self) -> None:
        """Advance by one iteration, in the order of the schedulers."""
        for scheduler in self.schedulers:
            scheduler.step()


def _kind(schedulers, groups, index):
    """Return a key that is equal for groups with equal rates."""
    settings = sorted(
        (k, repr(v)) for k, v in groups[index].items() if k not in NO_SETTINGS
    )
    return str(settings + [repr(s.base_values[index]) for s in schedulers])


def fast_forward(
    schedulers: Sequence[_ParamScheduler], steps: int
) -> list[dict]:
    """Advance new schedulers and their groups to a later iteration.

    The groups then have the rates of an uninterrupted run at that iteration.

    Args:
        schedulers: Just built, all on one optimiser; see :func:`can_replay`.
        steps: Number of iterations, not negative.

    Returns:
        The groups, changed in place.
    """
    groups = list(schedulers[0].optimizer.param_groups)
    kinds = {}
    kind_of_group = [
        kinds.setdefault(_kind(schedulers, groups, i), (len(kinds), i))[0]
        for i in range(len(groups))
    ]
    replay = Replay(schedulers, groups, [i for _, i in kinds.values()])
    for _ in range(steps):
        replay.step()
    for group, kind in zip(groups, kind_of_group, strict=True):
        group.update(replay.groups[kind])
    for scheduler, stepped in zip(schedulers, replay.schedulers, strict=True):
        scheduler._global_step = stepped._global_step
        scheduler.last_step = stepped.last_step
        scheduler._last_value = [stepped._last_value[k] for k in kind_of_group]
    return groups


def first_difference(
    was: tuple[Sequence[_ParamScheduler], Sequence[dict]],
    now: tuple[Sequence[_ParamScheduler], Sequence[dict]],
    steps: int,
) -> tuple[RateChange | None, list[dict]]:
    """Compare two schedules over the iterations that have been trained.

    Args:
        was: Schedulers just built, and their groups at the first iteration.
        now: The same of the other schedule, with as many groups.
        steps: Number of iterations to compare.

    Returns:
        The first difference in what a scheduler may set, or None; and the
        settings of every group under the first schedule after these
        iterations.
    """
    kinds = {}
    kind_of_group = []
    for index in range(len(was[1])):
        kind = _kind(*was, index) + _kind(*now, index)
        kind_of_group.append(kinds.setdefault(kind, (len(kinds), index))[0])
    chosen = [index for _, index in kinds.values()]
    replays = [Replay(*plan, chosen) for plan in (was, now)]
    names = {'lr'}.union(s.param_name for plan in (was, now) for s in plan[0])
    found = None
    for iteration in range(1, steps + 1):
        if found is None:
            found = _compare(replays[0], replays[1], sorted(names), iteration)
        for replay in replays:
            replay.step()
    return found, [replays[0].groups[kind] for kind in kind_of_group]


def _compare(was, now, names, iteration):
    for old, new in zip(was.groups, now.groups, strict=True):
        for name in names:
            # Without a scheduler Adam's momentum is the first of its betas.
            a, b = (_rate(group, name) for group in (old, new))
            if a != b:
                return RateChange(name, iteration, a, b)
    return None


def _rate(group, name):
    if name == 'momentum' and 'betas' in group:
        return group['betas'][0]
    return group.get(name)
