"""Growth of memory in a run of many small steps, as numbers a step.

    python tests/memory_growth.py [--self-training] [--iterations 2000]
        [--predictions 500]

A run of small images, with ``--self-training`` with a teacher, a refiner and
a cache of features, then predictions with its checkpoint.
"""

import argparse
import gc
import json
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from mmengine.hooks import Hook

_TESTS = Path(__file__).resolve().parent
sys.path[:0] = [str(_TESTS.parent / 'tools'), str(_TESTS / 'engine')]

from benchmark.memory import release_freed_pages  # noqa: E402

# Share of the steps after which everything that is made once has been made.
_SETTLED = 0.3


class MemorySamples:
    """Memory of this process at several steps."""

    def __init__(self):
        self.rows = []

    def take(self, step: int) -> None:
        """Count what is alive after ``step``."""
        gc.collect()
        # Else new memory lies in pages that were freed before.
        release_freed_pages()
        objects = gc.get_objects()
        tensors = sum(issubclass(type(o), torch.Tensor) for o in objects)
        pages = int(Path('/proc/self/statm').read_text().split()[1])
        kib = pages * os.sysconf('SC_PAGE_SIZE') / 1024
        self.rows.append((step, kib, tensors, len(objects)))

    def slopes(self) -> dict[str, float]:
        """Return the growth a step: ``KiB``, ``tensors``, ``objects``.

        The median of the slopes between all pairs of samples, which a single
        step of the allocator does not change.
        """
        rows = np.array(self.rows, float)
        rows = rows[rows[:, 0] >= _SETTLED * rows[-1, 0]]
        first, second = np.triu_indices(len(rows), 1)
        gaps = rows[second] - rows[first]
        medians = np.median(gaps[:, 1:] / gaps[:, :1], axis=0)
        return dict(zip(('KiB', 'tensors', 'objects'), medians, strict=True))


class TakeMemorySamples(Hook):
    """Take a sample every so many iterations."""

    priority = 'LOWEST'

    def __init__(self, samples, interval):
        self.samples = samples
        self.interval = interval

    def after_train_iter(
        self, runner, batch_idx, data_batch=None, outputs=None
    ):
        if (runner.iter + 1) % self.interval == 0:
            self.samples.take(runner.iter + 1)


def growth_of_training(
    folder: Path, data: Path, iterations: int, self_training: bool = False
) -> dict[str, float]:
    """Train ``iterations`` steps; return the growth a step.

    Args:
        folder: For bank, cache and work dir.
        data: Of ``tiny_run.write_data``.
        iterations: Of self-training the first few are source-only.
        self_training: With a teacher, a refiner and a cache of features; or
            the labelled images alone, a fifth of the time.
    """
    from self_training_run import write_bank, write_self_training
    from tiny_run import read_config, write_config

    from clouds_mmseg.cli.config import build_runner

    changes = dict(
        train_cfg__max_iters=iterations,
        train_cfg__val_interval=iterations,
        default_hooks__checkpoint__interval=iterations,
    )
    if self_training:
        config = write_self_training(folder, data, write_bank(folder))
        changes['default_hooks__feature_cache'] = dict(
            type='FeatureCacheHook', cache_dir=str(folder / 'features')
        )
    else:
        config = write_config(folder / 'tiny.py', data)
    cfg = read_config(config, folder / 'work', **changes)
    if self_training:
        cfg.custom_hooks[-1].picture_interval = None
    runner = build_runner(cfg)
    samples = MemorySamples()
    runner.register_hook(TakeMemorySamples(samples, max(iterations // 10, 1)))
    runner.train()
    return samples.slopes()


def growth_of_calls(call: Callable[[int], object], number: int) -> dict:
    """Call ``number`` times with 0, 1, ...; return the growth a call."""
    samples = MemorySamples()
    for index in range(number):
        call(index)
        if (index + 1) % max(number // 10, 1) == 0:
            samples.take(index + 1)
    return samples.slopes()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument('--iterations', type=int, default=2000)
    parser.add_argument('--predictions', type=int, default=500)
    parser.add_argument('--self-training', action='store_true')
    args = parser.parse_args()
    torch.set_num_threads(1)
    from tiny_run import write_data

    from clouds_mmseg.predict import Segmenter

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data = write_data(folder / 'data')
        found = dict(
            iterations=args.iterations,
            training=growth_of_training(
                folder, data, args.iterations, args.self_training
            ),
        )
        checkpoint = folder / f'work/iter_{args.iterations}.pth'
        segmenter = Segmenter.from_pretrained(str(checkpoint))
        paths = sorted((data / 'day_val/images').iterdir())
        found.update(
            predictions=args.predictions,
            prediction=growth_of_calls(
                lambda index: segmenter(str(paths[index % len(paths)])),
                args.predictions,
            ),
        )
    print(json.dumps(found, indent=1))


if __name__ == '__main__':
    main()
