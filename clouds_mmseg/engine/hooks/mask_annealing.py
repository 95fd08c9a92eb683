"""Hook that switches off the masks of PMT's and EoMT's attention."""

from collections.abc import Sequence

import torch
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmseg.registry import HOOKS

from clouds_mmseg.engine.run_state import unwrap_model
from clouds_mmseg.utils.errors import UserError

# Shares of the training at which the first and the last block begin, and how
# long each takes: those of the published configs of EoMT and PMT.
_FIRST, _LAST, _LENGTH = 1 / 6, 2 / 3, 1 / 6


@HOOKS.register_module()
class MaskAnnealingHook(Hook):
    """Let the masks of each block go, one block after the other.

    The probability of a block is 1 before its ``begin``, ``((end - t) /
    (end - begin)) ** power`` at iteration t up to its ``end``, and 0 from
    then on. It is a function of the iteration alone, so that a resumed run
    does the same.

    Args:
        begin: Iteration at which each block begins, first block first. By
            default evenly from 1/6 to 2/3 of the training, as in EoMT.
        end: Iteration at which each block has no masks any more. By default
            1/6 of the training after ``begin``.
        power: Of the decay.

    Raises:
        UserError: The values are not in order; or, when the training begins,
            they do not fit the number of blocks, end after the training, or
            the head has no such masks.
    """

    priority = 'NORMAL'

    def __init__(
        self,
        begin: Sequence[int] | None = None,
        end: Sequence[int] | None = None,
        power: float = 0.9,
    ):
        if (begin is None) != (end is None):
            raise UserError(
                'MaskAnnealingHook needs begin and end, or neither; got '
                f'{begin=}, {end=}'
            )
        self.given: tuple[list[int], list[int]] | None = None
        if begin is not None and end is not None:
            begin, end = list(begin), list(end)
            if len(begin) != len(end) or not all(
                0 <= first < last
                for first, last in zip(begin, end, strict=False)
            ):
                raise UserError(
                    'MaskAnnealingHook needs one begin and one later end for '
                    f'each block, not negative; got {begin=}, {end=}'
                )
            self.given = (begin, end)
        if not power > 0:
            raise UserError(
                f'MaskAnnealingHook.power must be positive, got {power!r}'
            )
        self.power = power

    def before_train(self, runner: Runner) -> None:
        """Check the schedule, and set what holds at the first iteration."""
        heads = self._heads(runner)
        if not heads:
            kind = type(unwrap_model(runner.model).decode_head).__name__
            raise UserError(
                f'MaskAnnealingHook is for PMTHead and EoMTHead; {kind} has '
                'no masks to be annealed: leave it out of the hooks'
            )
        total, blocks = runner.max_iters, heads[0].num_blocks
        self._schedule = self.given or default_schedule(blocks, total)
        begin, end = self._schedule
        if len(begin) != blocks:
            raise UserError(
                f'MaskAnnealingHook has begin and end of {len(begin)} blocks, '
                f'and model.decode_head has {blocks}'
            )
        if late := late_end(end, total):
            raise UserError(late)
        self._set(runner, runner.iter)

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: dict | None = None,
        outputs: dict | None = None,
    ) -> None:
        """Set what holds at the next iteration, and is saved now."""
        self._set(runner, runner.iter + 1)

    def _set(self, runner, iteration):
        values = [
            mask_probability(iteration, first, last, self.power)
            for first, last in zip(*self._schedule, strict=True)
        ]
        for head in self._heads(runner):
            probabilities = head.attn_mask_probs
            probabilities.copy_(torch.tensor(values))

    @staticmethod
    def _heads(runner):
        """Return the heads that have masks; the teacher's follows."""
        head = unwrap_model(runner.model).decode_head
        return [head] if hasattr(head, 'attn_mask_probs') else []


def late_end(end: Sequence[int], total: int) -> str | None:
    """Tell what is wrong with masks that outlast the training.

    Args:
        end: Iteration at which each block has no masks any more.
        total: Iterations of the training.

    Returns:
        A message; None if there is nothing wrong.
    """
    if max(end) <= total:
        return None
    return (
        f'MaskAnnealingHook.end={list(end)}: the training ends after {total} '
        'iterations (train_cfg.max_iters), and the finished model would still '
        'mask; give ends up to that, or leave begin and end out'
    )


def default_schedule(blocks: int, total: int) -> tuple[list[int], list[int]]:
    """Return the published schedule for a number of blocks and iterations.

    Args:
        blocks: Blocks with masks.
        total: Iterations of the training.

    Returns:
        Begin and end of each block.
    """
    begin, end = [], []
    for index in range(blocks):
        share = _FIRST
        if blocks > 1:
            share += (_LAST - _FIRST) * index / (blocks - 1)
        begin.append(int(total * share))
        end.append(max(begin[-1] + 1, int(total * (share + _LENGTH))))
    return begin, end


def mask_probability(
    iteration: int, begin: int, end: int, power: float
) -> float:
    """Return the probability with which a query is masked."""
    if iteration < begin:
        return 1.0
    if iteration >= end:
        return 0.0
    return ((end - iteration) / (end - begin)) ** power
