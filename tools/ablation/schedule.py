"""Train the rows of the ablation, several at a time."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from mmengine.config import Config

from ablation.rows import Row
from clouds_mmseg.utils.config_file import read_file
from clouds_mmseg.utils.errors import UserError
from clouds_mmseg_cli.cfg_options import parse_options

RESULTS = 'results.json'


class Run(NamedTuple):
    """A row trained with a seed.

    Attributes:
        row: What is trained.
        seed: ``randomness.seed``.
        folder: Its work dir.
        options: Overrides of the config, ``key=value``.
    """

    row: Row
    seed: int
    folder: Path
    options: tuple = ()

    @property
    def warm_up(self):
        """Path of the checkpoint that the run begins with, or None."""
        if self.row.warm_up is None:
            return None
        begin = self.config().train_cfg.warmup_iters
        return self.folder.parent / self.row.warm_up / f'iter_{begin}.pth'

    def config(self) -> Config:
        """Read its config.

        Returns:
            With the options.
        """
        cfg = read_file(self.row.config)
        if self.options:
            cfg.merge_from_dict(parse_options(self.options))
        return cfg

    def results(self) -> dict | None:
        """What the finished run has written.

        Returns:
            ``results.json``; None if it has not come to its last iteration.
        """
        path = self.folder / RESULTS
        if not path.is_file():
            return None
        results = json.loads(path.read_text())
        last = int(self.config().train_cfg.max_iters)
        return results if results['iteration'] == last else None

    def command(self) -> list[str]:
        """The command that trains it.

        Returns:
            Continues what was begun. A run that has not begun and shares its
            warm-up continues from the other's checkpoint.
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
            *self.options,
        ]


def train_all(
    runs: Sequence[Run], *, jobs: int, say: Callable = print
) -> None:
    """Train what is not finished yet.

    Each process gets its share of the cores: two that have a core each do
    more together than one after the other with both.

    Args:
        runs: In the order in which they should begin.
        jobs: Processes at a time.
        say: Called with each line of progress.

    Raises:
        UserError: A training failed; it names the log and the command. The
            others that were running are ended.
    """
    waiting = [run for run in runs if run.results() is None]
    done = len(runs) - len(waiting)
    if done:
        say(f'{done} of {len(runs)} runs are finished already')
    threads = max(1, (os.cpu_count() or 1) // jobs)
    environment = dict(os.environ, OMP_NUM_THREADS=str(threads))
    running = {}
    try:
        while waiting or running:
            for run in list(waiting):
                if len(running) < jobs and _ready(run, runs):
                    waiting.remove(run)
                    running[run] = _start(run, environment)
                    say(f'{_name(run)}: begins, log {_log(run)}')
            for run, (process, begin) in list(running.items()):
                if process.poll() is None:
                    continue
                del running[run]
                _require_success(run, process.returncode)
                done += 1
                minutes = (time.monotonic() - begin) / 60
                say(
                    f'{_name(run)}: done in {minutes:.1f} min '
                    f'({done} of {len(runs)})'
                )
            time.sleep(0.2)
    finally:
        for process, _ in running.values():
            process.terminate()
        for process, _ in running.values():
            process.wait()


def _name(run):
    return f'{run.row.name}, seed {run.seed}'


def _log(run):
    return run.folder.parent / f'{run.row.name}.log'


def _ready(run, runs):
    """Whether the run that it shares a warm-up with has ended."""
    return run.row.warm_up is None or all(
        other.results() is not None
        for other in runs
        if other.seed == run.seed and other.row.name == run.row.warm_up
    )


def _start(run, environment):
    run.folder.mkdir(parents=True, exist_ok=True)
    with open(_log(run), 'a') as log:
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
    last = _log(run).read_text(errors='replace').strip().splitlines()[-3:]
    raise UserError(
        f'training {_name(run)} ended with status {returncode}; its log '
        f'{_log(run)} ends with:\n  '
        + '\n  '.join(last)
        + '\nIts command: '
        + ' '.join(map(str, run.command()))
    )
