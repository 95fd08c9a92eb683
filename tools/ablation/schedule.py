"""Parallel training of the rows of the ablation."""

import copy
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmseg.registry import MODELS
from torch import nn

from ablation.rows import Row, Schedule
from clouds_mmseg.utils.config_file import read_file
from clouds_mmseg.utils.errors import UserError
from clouds_mmseg.utils.parallel import available_cores
from clouds_mmseg.weights.io import read_state_dict
from clouds_mmseg.weights.load import load_strictly
from clouds_mmseg_cli.cfg_options import parse_options

RESULTS = 'results.json'


@lru_cache
def _read_config(path: str) -> Config:
    """Read a config once: the rows are looked at again and again."""
    return read_file(path)


class Run(NamedTuple):
    """Training of a row with a seed.

    Attributes:
        row: Row of the ablation.
        schedule: Of all rows.
        seed: ``randomness.seed``.
        folder: Work dir.
        options: Overrides of the config, ``key=value``, after those of the
            schedule.
    """

    row: Row
    schedule: Schedule
    seed: int
    folder: Path
    options: tuple = ()

    @property
    def warm_up(self) -> Path | None:
        """Checkpoint of a shared source-only training, if any."""
        if self.row.warm_up is None:
            return None
        # An override may have shortened the stage.
        begin = self.config().default_hooks.checkpoint.interval
        return self.folder.parent / self.row.warm_up / f'iter_{begin}.pth'

    def __str__(self) -> str:
        return f'{self.row.name}, {self.schedule.title}, seed {self.seed}'

    def config(self) -> Config:
        """Return the config with the options applied."""
        cfg = copy.deepcopy(_read_config(self.row.config))
        cfg.merge_from_dict(parse_options(self.all_options()))
        return cfg

    def all_options(self) -> list[str]:
        """Return the overrides of the schedule and of the user."""
        settings = self.row.options(self.schedule)
        return [*(f'{k}={v}' for k, v in settings.items()), *self.options]

    def results(self) -> dict | None:
        """Return the results of the finished run.

        Returns:
            ``results.json``; None before the last iteration.
        """
        path = self.folder / RESULTS
        if not path.is_file():
            return None
        results = json.loads(path.read_text())
        last = int(self.config().train_cfg.max_iters)
        return results if results['iteration'] == last else None

    def command(self) -> list[str]:
        """Return the command that trains the run.

        Returns:
            Resumes a started run. A new run with a shared source-only
            training resumes from that checkpoint.
        """
        resume = ['--resume']
        if self.warm_up is not None and not any(
            self.folder.glob('iter_*.pth')
        ):
            resume.append(str(self.warm_up))
        return [
            sys.executable,
            'tools/train.py',
            self.row.config,
            *('--work-dir', str(self.folder)),
            *resume,
            '--cfg-options',
            f'randomness.seed={self.seed}',
            *self.all_options(),
        ]


def train_all(
    runs: Sequence[Run], *, jobs: int, log: Callable = print
) -> None:
    """Train all unfinished runs.

    The cores are divided among the processes: two runs with one core each
    are faster than one after the other with two.

    Args:
        runs: In the order in which they start.
        jobs: Number of parallel processes.
        log: Called with each line of progress.

    Raises:
        UserError: A training failed; the message has the log and the command.
            The other processes are terminated.
    """
    waiting = [run for run in runs if run.results() is None]
    done = len(runs) - len(waiting)
    if done:
        log(f'{done} of {len(runs)} runs are finished already')
    threads = max(1, available_cores() // jobs)
    environment = dict(os.environ, OMP_NUM_THREADS=str(threads))
    running = {}
    start, trained = time.monotonic(), 0
    try:
        while waiting or running:
            for run in list(waiting):
                if len(running) < jobs and _ready(run, runs):
                    waiting.remove(run)
                    running[run] = _start(run, environment)
                    log(f'{run}: begins, log {_log_file(run)}')
            for run, (process, begin) in list(running.items()):
                if process.poll() is None:
                    continue
                del running[run]
                _require_success(run, process.returncode)
                done += 1
                minutes = (time.monotonic() - begin) / 60
                trained += 1
                left = (time.monotonic() - start) / trained
                left *= len(waiting) + len(running)
                log(
                    f'{run}: done in {minutes:.1f} min '
                    f'({done} of {len(runs)}, about {left / 60:.0f} min left)'
                )
            time.sleep(0.2)
    finally:
        for process, _ in running.values():
            process.terminate()
        for process, _ in running.values():
            process.wait()


def load_trained(run: Run) -> nn.Module:
    """Load the model of a finished run, in eval mode."""
    cfg = run.config()
    init_default_scope(cfg.default_scope)
    last = run.folder / f'iter_{cfg.train_cfg.max_iters}.pth'
    model = MODELS.build(cfg.model)
    load_strictly(model, read_state_dict(last), source=last)
    return model.eval()


def _log_file(run):
    return run.folder.parent / f'{run.row.name}.log'


def _ready(run, runs):
    """Return whether the shared source-only training is finished."""
    return run.row.warm_up is None or all(
        other.results() is not None
        for other in runs
        if (other.seed, other.schedule) == (run.seed, run.schedule)
        and other.row.name == run.row.warm_up
    )


def forget_unevaluated(run: Run) -> None:
    """Let a run that was stopped in its last evaluation train its end again.

    Its last checkpoint has nothing left to train, so resuming it would end
    without results.
    """
    last = run.config().train_cfg.max_iters
    if run.results() is None:
        for name in (f'iter_{last}.pth', 'last_checkpoint'):
            (run.folder / name).unlink(missing_ok=True)


def _start(run, environment):
    forget_unevaluated(run)
    run.folder.mkdir(parents=True, exist_ok=True)
    with open(_log_file(run), 'a') as log:
        process = subprocess.Popen(
            run.command(),
            stdout=log,
            stderr=subprocess.STDOUT,
            env=environment,
        )
    return process, time.monotonic()


def _require_success(run, returncode):
    if returncode == 0 and run.results() is not None:
        return
    last = _log_file(run).read_text(errors='replace').strip().splitlines()[-3:]
    raise UserError(
        f'training {run} ended with status {returncode}; its log '
        f'{_log_file(run)} ends with:\n  '
        + '\n  '.join(last)
        + '\nIts command: '
        + ' '.join(map(str, run.command()))
    )
