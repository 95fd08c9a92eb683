"""Time from a checkpoint to the first batch after it."""

import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmseg.registry import HOOKS

from benchmark.files import PREPARED, write_set
from benchmark.loading import folder_dataset
from benchmark.setting import MEAN, STD, merge_options
from clouds_mmseg.cli.config import build_runner
from clouds_mmseg.utils.cityscapes import CLASSES

_BATCH = 2


class FirstBatchReached(Exception):
    """Raised when the first batch has been loaded."""


@HOOKS.register_module()
class StopAtFirstBatch(Hook):
    """Stop a run when its first batch has been loaded."""

    priority = 'VERY_HIGH'

    def before_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: dict | None = None
    ) -> None:
        """Stop the loop.

        Raises:
            FirstBatchReached: Always.
        """
        raise FirstBatchReached


class ResumeCase:
    """Source-only training on synthetic files that was interrupted.

    Args:
        folder: Empty folder.
        tower: A model of open_clip.
        model: Merged into the model's config, dotted keys.
        size: Width and height of the stored images.
        crop: Side of the crops.
        workers: Worker processes of the loader.
        clock: Clock in seconds.
    """

    def __init__(
        self,
        folder: Path,
        *,
        tower: str = 'RN50',
        model: dict | None = None,
        size: tuple[int, int] = (1914, 1052),
        crop: int = 512,
        workers: int = 0,
        clock: Callable = time.perf_counter,
    ):
        self.folder = Path(folder)
        self._clock = clock
        self._runs = 0
        data = self.folder / 'data'
        write_set(data, size, ['png'], [PREPARED], count=4)
        self._config = Config(
            dict(
                default_scope='mmseg',
                log_level='ERROR',
                randomness=dict(seed=0),
                model=merge_options(_model(tower, crop), model or {}),
                train_dataloader=dict(
                    batch_size=_BATCH,
                    num_workers=workers,
                    dataset=folder_dataset(data, size, crop),
                ),
                train_cfg=dict(type='ExactTrainLoop', max_iters=1),
                optim_wrapper=dict(
                    type='OptimWrapper',
                    optimizer=dict(type='AdamW', lr=1e-5, foreach=False),
                ),
                custom_hooks=[dict(type='StopAtFirstBatch')],
            )
        )

    def save(self, iteration: int) -> Path:
        """Write a checkpoint as if it were saved at an iteration.

        Args:
            iteration: At least 1.

        Returns:
            Path of the checkpoint.
        """
        runner = self._runner()
        wrapper = runner.build_optim_wrapper(runner.optim_wrapper)
        runner.optim_wrapper = wrapper
        # The optimiser's state has its full size after one step.
        for parameter in runner.model.parameters():
            if parameter.requires_grad:
                parameter.grad = torch.zeros_like(parameter)
        wrapper.step()
        runner.train_loop._iter = iteration - 1
        name = f'iter_{iteration}.pth'
        runner.save_checkpoint(str(self.folder), name, by_epoch=False)
        return self.folder / name

    def seconds(self, path: Path) -> float:
        """Resume, and stop at the first batch.

        Args:
            path: Path returned by :meth:`save`.

        Returns:
            Seconds from the call of ``train`` to the first batch.
        """
        runner = self._runner(max_iters=10**9)
        runner._resume, runner._load_from = True, str(path)
        start = self._clock()
        try:
            runner.train()
        except FirstBatchReached:
            return self._clock() - start
        raise AssertionError('the run ended before its first batch')

    def seconds_a_batch(self, batches: int) -> float:
        """Load batches, as a loop that skips trained batches by loading them.

        Args:
            batches: Number of batches, after one that starts the workers.

        Returns:
            Seconds per batch.
        """
        iterator = iter(self._runner().train_loop.dataloader)
        next(iterator)
        start = self._clock()
        for _ in range(batches):
            next(iterator)
        return (self._clock() - start) / batches

    def _runner(self, max_iters=1):
        self._runs += 1
        config = self._config.copy()
        config.work_dir = str(self.folder / f'run_{self._runs}')
        config.experiment_name = f'resume_{self._runs}_{id(self)}'
        config.train_cfg.max_iters = max_iters
        return build_runner(config)


def compare(
    case: ResumeCase,
    iteration: int,
    *,
    warmup: int = 1,
    repeats: int = 3,
    replayed: int = 0,
) -> list[dict]:
    """Measure resuming at iteration 1 and at a late one, interleaved.

    Args:
        case: Run to resume.
        iteration: The late iteration.
        warmup: Untimed runs of each.
        repeats: Timed runs of each.
        replayed: Batches that are loaded to extrapolate the time of a loop
            that loads all trained batches again; 0 disables it.

    Returns:
        Rows with the seconds of each and, if extrapolated, the ``ratio`` of
        replaying to ours.
    """
    paths = {number: case.save(number) for number in (1, iteration)}
    seconds = {number: [] for number in paths}
    for turn in range(warmup + repeats):
        for number, path in paths.items():
            took = case.seconds(path)
            if turn >= warmup:
                seconds[number].append(took)
    rows = [
        dict(
            name=f'resume at iteration {number:,}',
            unit='s',
            ours=statistics.median(times),
            spread=max(times) - min(times),
        )
        for number, times in seconds.items()
    ]
    if replayed:
        early, late = rows
        batch = case.seconds_a_batch(replayed)
        # Extrapolated: replaying would take hours.
        late['plain'] = early['ours'] + iteration * batch
        late['ratio'] = late['plain'] / late['ours']
    return rows


def _model(tower, crop):
    return dict(
        type='DGSegmentor',
        data_preprocessor=dict(
            type='SegDataPreProcessor',
            mean=MEAN,
            std=STD,
            size=(crop, crop),
            pad_val=0,
            seg_pad_val=255,
        ),
        backbone=dict(type='CLIPBackbone', model_name=tower),
        decode_head=dict(type='CLOUDSHead', num_classes=len(CLASSES)),
        train_cfg=dict(),
        test_cfg=dict(mode='whole'),
    )
