"""The schedule by which masks of PMT and EoMT are switched off."""

from types import SimpleNamespace

import pytest
import torch
from mmengine.logging import MMLogger
from torch import nn

from clouds_mmseg.engine.hooks.mask_annealing import (
    MaskAnnealingHook,
    default_schedule,
    mask_probability,
)
from clouds_mmseg.utils.errors import UserError


def a_run(blocks=2, total=12, iteration=0):
    head = nn.Module()
    head.num_blocks = blocks
    head.register_buffer('attn_mask_probs', torch.ones(blocks))
    model = nn.Module()
    model.decode_head = head
    return SimpleNamespace(
        model=model,
        max_iters=total,
        iter=iteration,
        logger=MMLogger.get_current_instance(),
    )


@pytest.mark.parametrize(
    ('total', 'begin', 'end'),
    [
        # EoMT-B on Cityscapes.
        (19902, [3317, 8292, 13268], [6634, 11609, 16585]),
        # PMT on ADE20K; there the first block ends with the warm-up.
        (
            20192,
            [3365, 5384, 7403, 9422, 11442, 13461],
            [6730, 8749, 10769, 12788, 14807, 16826],
        ),
    ],
)
def test_default_is_the_published_schedule(total, begin, end):
    found = default_schedule(len(begin), total)
    for ours, theirs in zip(found, (begin, end), strict=True):
        assert all(abs(a - b) <= 1 for a, b in zip(ours, theirs, strict=True))


def test_probability():
    assert mask_probability(0, 0, 10, 0.9) == 1
    assert mask_probability(3, 4, 10, 0.9) == 1
    assert mask_probability(7, 4, 10, 0.9) == pytest.approx(0.5**0.9)
    assert mask_probability(10, 4, 10, 0.9) == 0


def test_probabilities_follow_the_iteration_alone():
    """What is saved after an iteration is what holds at the next."""
    hook, run = MaskAnnealingHook([0, 2], [4, 8], power=1), a_run()
    hook.before_train(run)
    seen = [run.model.decode_head.attn_mask_probs.tolist()]
    for run.iter in range(8):
        hook.after_train_iter(run, run.iter)
        seen.append(run.model.decode_head.attn_mask_probs.tolist())
    assert [a for a, _ in seen] == [1, 0.75, 0.5, 0.25, 0, 0, 0, 0, 0]
    assert seen[3][1] == pytest.approx(5 / 6) and seen[8] == [0, 0]
    for iteration in (0, 3, 8):
        again = a_run(iteration=iteration)
        MaskAnnealingHook([0, 2], [4, 8], power=1).before_train(again)
        found = again.model.decode_head.attn_mask_probs
        assert found.tolist() == seen[iteration]


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (dict(begin=[0]), 'begin and end, or neither'),
        (dict(begin=[0, 1], end=[2]), 'for each block'),
        (dict(begin=[3], end=[3]), 'one later end'),
        (dict(power=0), 'power must be positive'),
    ],
)
def test_wrong_schedules(arguments, message):
    with pytest.raises(UserError, match=message):
        MaskAnnealingHook(**arguments)


def test_schedules_that_do_not_fit_the_run():
    with pytest.raises(UserError, match=r'ends after 12 iterations.*would'):
        MaskAnnealingHook([0, 2], [4, 13]).before_train(a_run())
    with pytest.raises(UserError, match='of 1 blocks, and .* has 2'):
        MaskAnnealingHook([0], [4]).before_train(a_run())
    run = a_run()
    run.model.decode_head = nn.Linear(1, 1)
    with pytest.raises(UserError, match='Linear has no masks'):
        MaskAnnealingHook().before_train(run)
