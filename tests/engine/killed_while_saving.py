"""Train in forked processes that are killed at every step of saving.

Usage: python killed_while_saving.py CONFIG WORK_DIR [KIND_OF_HOOK]

Prints a JSON line for each process: where it was killed, to which iteration
``last_checkpoint`` then leads (null without one), and an error if it leads
nowhere.
"""

import json
import os
import signal
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from mmengine.fileio import LocalBackend  # noqa: E402
from tiny_run import read_config  # noqa: E402

from clouds_mmseg.cli.config import build_runner  # noqa: E402
from clouds_mmseg.weights.load import (
    find_last_checkpoint,
    read_checkpoint,
)


class KillAt:
    """Patch the steps of saving; kill this process at the n-th."""

    def __init__(self, number, report):
        self.left = number
        self.report = report
        put, remove, replace = (
            LocalBackend.put,
            LocalBackend.remove,
            os.replace,
        )

        def slow_put(backend, content, path):
            put(backend, content[: len(content) // 2], path)
            self.step(f'half of {len(content)} bytes written')
            put(backend, content, path)

        def noted_remove(backend, path):
            self.step('before removing')
            remove(backend, path)
            self.step('after removing')

        def noted_replace(source, target):
            name = os.path.basename(target)
            self.step(f'before renaming to {name}')
            replace(source, target)
            self.step(f'after renaming to {name}')

        LocalBackend.put = slow_put
        LocalBackend.remove = noted_remove
        os.replace = noted_replace

    def step(self, name):
        self.left -= 1
        if self.left == 0:
            self.report.write_text(name)
            os.kill(os.getpid(), signal.SIGKILL)


def led_to(work_dir):
    """Iteration that a resumed run would start at, and what went wrong."""
    try:
        path = find_last_checkpoint(str(work_dir))
        if path is None:
            return None, None
        return read_checkpoint(path)['meta']['iter'], None
    except Exception as error:
        return None, str(error)


def main():
    # The children are forked: no pool of threads may exist before.
    torch.set_num_threads(1)
    config, root = sys.argv[1], Path(sys.argv[2])
    kind = sys.argv[3] if len(sys.argv) > 3 else 'SafeCheckpointHook'
    runner = build_runner(
        read_config(
            config,
            root / 'unused',
            train_cfg__max_iters=2,
            train_cfg__val_interval=100,
            default_hooks__checkpoint__type=kind,
            default_hooks__checkpoint__interval=1,
            default_hooks__checkpoint__max_keep_ckpts=1,
            custom_hooks=[],
            # TensorBoard writes from a thread, which a fork does not copy.
            visualizer=None,
        )
    )
    for number in range(1, 100):
        work_dir, report = root / str(number), root / f'{number}.txt'
        work_dir.mkdir()
        child = os.fork()
        if child == 0:
            runner._work_dir = str(work_dir)
            runner.logger.handlers.clear()
            KillAt(number, report)
            runner.train()
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if os.WIFEXITED(status):
            assert os.WEXITSTATUS(status) == 0
            break
        assert os.WTERMSIG(status) == signal.SIGKILL
        iteration, error = led_to(work_dir)
        line = dict(step=report.read_text(), iteration=iteration, error=error)
        print(json.dumps(line), flush=True)


if __name__ == '__main__':
    main()
