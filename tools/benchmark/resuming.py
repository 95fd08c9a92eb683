"""The way from a checkpoint to the first batch after it."""

import statistics
import time
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmseg.registry import HOOKS

from benchmark.files import PREPARED, write_set
from benchmark.loading import folder_dataset
from benchmark.setting import MEAN, STD, merge_options
from clouds_mmseg.cli.config import build_runner
from clouds_mmseg.utils.cityscapes import CLASSES

_BATCH = 2


class FirstBatchReached(Exception):
    """The run has come where it is timed."""


@HOOKS.register_module()
class StopAtFirstBatch(Hook):
    """End a run when its first batch has been loaded."""

    priority = 'VERY_HIGH'

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        """Leave the loop.

        Args:
            runner (Runner): Unused.
            batch_idx (int): Unused.
            data_batch (dict, optional): Unused.

        Raises:
            FirstBatchReached: Always.
        """
        raise FirstBatchReached


class ResumeCase:
    """A warm-up run on written images that was stopped somewhere.

    Args:
        folder (Path): An empty one.
        tower (str): A model of open_clip.
        model (dict): Merged into the model's config, dotted keys.
        size (tuple[int, int]): Width and height of the stored images.
        crop (int): Side of the crops.
        workers (int): Processes that load.
        clock (Callable): Tells the time.
    """

    def __init__(
        self,
        folder,
        *,
        tower='RN50',
        model=None,
        size=(1914, 1052),
        crop=512,
        workers=0,
        clock=time.perf_counter,
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

    def save(self, iteration):
        """Write the checkpoint of a run after so many iterations.

        Args:
            iteration (int): At least 1.

        Returns:
            Path: Of the checkpoint.
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

    def seconds(self, path):
        """Resume, and stop when the first batch is there.

        Args:
            path (Path): Of :meth:`save`.

        Returns:
            float: From the call of ``train`` to the first batch.
        """
        runner = self._runner(max_iters=10**9)
        runner._resume, runner._load_from = True, str(path)
        start = self._clock()
        try:
            runner.train()
        except FirstBatchReached:
            return self._clock() - start
        raise AssertionError('the run ended before its first batch')

    def seconds_a_batch(self, batches):
        """Load batches, as a loop does that replays what it has seen.

        Args:
            batches (int): How many, after one that starts the workers.

        Returns:
            float: For each of them.
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


def compare(case, iteration, *, warmup=1, repeats=3, replayed=0):
    """Resume early and late in turn.

    Args:
        case (ResumeCase): What is resumed.
        iteration (int): The late one; the early one is 1.
        warmup (int): Runs of each that are not counted.
        repeats (int): Runs of each that are.
        replayed (int): Batches that are loaded to tell what a loop would
            take that loads all that went before, without doing it; 0 for
            not to tell.

    Returns:
        list[dict]: Rows with the seconds of each and, where it is told, the
        ``ratio`` of replaying to ours.
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
        # Told, not waited for: it would be hours.
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
