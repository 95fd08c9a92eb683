"""Rates of a replayed schedule against those of a stepped one."""

import copy

import pytest
import torch
from mmengine.optim import OptimWrapper
from mmseg.registry import PARAM_SCHEDULERS

import clouds_mmseg  # noqa: F401
from clouds_mmseg.engine.optim import (
    can_replay,
    fast_forward,
    first_difference,
)

LENGTH = 24
POLY = dict(type='PolyLR', power=0.9, eta_min=1e-6)
SCHEDULES = {
    'constant': [dict(type='ConstantLR', factor=0.3, end=7)],
    'linear': [dict(type='LinearLR', start_factor=0.1, end=9)],
    'step': [dict(type='StepLR', step_size=5, gamma=0.5)],
    'multistep': [dict(type='MultiStepLR', milestones=[3, 11], gamma=0.1)],
    'exponential': [dict(type='ExponentialLR', gamma=0.97)],
    'cosine': [dict(type='CosineAnnealingLR', T_max=8, eta_min=1e-5)],
    'cosine, ratio': [
        dict(type='CosineAnnealingLR', T_max=20, eta_min_ratio=0.1)
    ],
    'poly': [POLY],
    'one cycle': [
        dict(type='OneCycleLR', eta_max=0.1, total_steps=LENGTH + 1)
    ],
    'one cycle, rate of each group': [
        dict(
            type='OneCycleLR',
            # One more: mmengine adds a group that has no parameters.
            eta_max=[0.1, 0.2, 0.1, 0.3, 0.1, 0.2],
            total_steps=LENGTH + 1,
            three_phase=True,
            anneal_strategy='linear',
        )
    ],
    'cosine restarts': [
        dict(
            type='CosineRestartLR',
            periods=[5, 9, 30],
            restart_weights=[1, 0.5, 0.2],
            eta_min=1e-6,
        )
    ],
    'poly restarts': [
        dict(type='PolyRestartLR', period=6, power=0.9, warmup=2)
    ],
    'warm-up, then poly': [
        dict(type='LinearLR', start_factor=1e-3, end=6),
        dict(POLY, begin=6),
    ],
    'rate and momentum at once': [
        dict(POLY, begin=2, end=15),
        dict(type='CosineAnnealingMomentum', T_max=7, begin=4),
        dict(type='StepLR', step_size=3, gamma=0.7),
    ],
}
# Chosen so that nothing about them is round.
STEPS = (0, 1, 2, 7, 13, LENGTH - 1, LENGTH, LENGTH + 5)


def build(schedule, optimizer='SGD', length=LENGTH):
    """Five groups of three kinds in a wrapper, and their schedulers."""
    groups = [
        dict(params=[torch.nn.Parameter(torch.ones(2))], lr=lr, weight_decay=w)
        for lr, w in ((0.1, 0), (0.03, 0.1), (0.1, 0), (0.1, 0.1), (0.03, 0.1))
    ]
    options = dict(momentum=0.9) if optimizer == 'SGD' else {}
    wrapper = OptimWrapper(getattr(torch.optim, optimizer)(groups, **options))
    schedulers = [
        PARAM_SCHEDULERS.build(
            dict(dict(end=length), by_epoch=False, **config),
            default_args=dict(optimizer=wrapper, epoch_length=1),
        )
        for config in copy.deepcopy(schedule)
    ]
    return wrapper, schedulers


def settings(groups):
    return [{k: v for k, v in g.items() if k != 'params'} for g in groups]


def states(schedulers):
    return [
        {k: v for k, v in s.state_dict().items() if not callable(v)}
        for s in schedulers
    ]


def possible_steps(name):
    # mmengine's one-cycle schedule raises behind its end.
    return [s for s in STEPS if s <= LENGTH or 'one cycle' not in name]


@pytest.mark.filterwarnings('error')
@pytest.mark.parametrize('optimizer', ['SGD', 'AdamW'])
@pytest.mark.parametrize('name', SCHEDULES)
def test_fast_forward_equals_stepping(name, optimizer):
    for steps in possible_steps(name):
        wrapper, stepped = build(SCHEDULES[name], optimizer)
        wrapper._global_step = wrapper.optimizer._global_step = 0
        for _ in range(steps):
            for scheduler in stepped:
                scheduler.step()
        other, schedulers = build(SCHEDULES[name], optimizer)
        fast_forward(schedulers, steps)
        assert settings(other.param_groups) == settings(wrapper.param_groups)
        assert states(schedulers) == states(stepped)
        # And it goes on as the other does.
        if steps < LENGTH:
            other._global_step = 0
            for one, two in zip(stepped, schedulers, strict=False):
                one.step()
                two.step()
            assert settings(other.param_groups) == settings(
                wrapper.param_groups
            )


@pytest.mark.parametrize('name', SCHEDULES)
def test_a_schedule_does_not_differ_from_itself(name):
    plans = [build(SCHEDULES[name]) for _ in range(2)]
    was, now = [(s, w.param_groups) for w, s in plans]
    before = settings(plans[1][0].param_groups), states(plans[1][1])
    found, after = first_difference(was, now, LENGTH)
    assert found is None
    # Neither was stepped.
    assert before == (settings(plans[1][0].param_groups), states(plans[1][1]))
    fast_forward(plans[0][1], LENGTH)
    assert settings(after) == settings(plans[0][0].param_groups)


def difference(was, now, steps, **lengths):
    (a, old), (b, new) = build(was), build(now)
    return first_difference(
        (old, a.param_groups), (new, b.param_groups), steps
    )[0]


def test_a_longer_decay_differs_from_the_second_iteration_on():
    wrapper, old = build([POLY])
    other, new = build([POLY], length=2 * LENGTH)
    plans = (old, wrapper.param_groups), (new, other.param_groups)
    assert first_difference(*plans, 1)[0] is None
    found = first_difference(*plans, 9)[0]
    assert (found.name, found.iteration) == ('lr', 2)
    assert found.was < found.now < 0.1


@pytest.mark.parametrize('steps, differ', [(4, False), (5, False), (6, True)])
def test_a_warm_up_differs_only_from_its_end_on(steps, differ):
    was = [dict(type='ConstantLR', factor=0.5, end=6)]
    now = [dict(type='ConstantLR', factor=0.5, end=20)]
    found = difference(was, now, steps)
    assert (found is not None) is differ
    if differ:
        assert (found.iteration, found.was, found.now) == (6, 0.1, 0.05)


def test_no_schedule_is_a_schedule():
    assert difference([], [], 9) is None
    found = difference([], [dict(type='StepLR', step_size=4, gamma=0.5)], 9)
    assert (found.iteration, found.was, found.now) == (5, 0.1, 0.05)


def test_momentum_counts_too():
    now = [dict(type='StepMomentum', step_size=2, gamma=0.5)]
    found = difference([], now, 5)
    assert (found.name, found.iteration) == ('momentum', 3)


def test_epochs_and_metrics_are_not_replayed():
    wrapper, _ = build([])
    for config in (
        dict(type='ReduceOnPlateauLR', monitor='x'),
        dict(type='StepLR', step_size=2),
    ):
        scheduler = PARAM_SCHEDULERS.build(
            config, default_args=dict(optimizer=wrapper)
        )
        assert not can_replay([scheduler])
    assert can_replay(None) and can_replay([])
    assert not can_replay({'a': []})
