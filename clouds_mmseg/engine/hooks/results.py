"""Results of an evaluation, with the information to reproduce it."""

import functools
import json
import math
import re
import shlex
import subprocess
import sys
import time
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.dist import master_only
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmseg.registry import HOOKS

from clouds_mmseg.engine.resumable_runner import CHANGES_KEY
from clouds_mmseg.engine.run_state import WEIGHTS_KEY, unwrap_model
from clouds_mmseg.utils.atomic import atomic_path
from clouds_mmseg.utils.device import device_name
from clouds_mmseg.utils.finite import listed
from clouds_mmseg.utils.image_set import sha256_of
from clouds_mmseg.utils.result_warnings import (
    forget_result_warnings,
    result_warnings,
    warn_about_results,
)
from clouds_mmseg.version import __version__
from clouds_mmseg.weights.load import has_prefix

# Written to the folder of the log and to the work dir.
RESULTS_FILE = 'results.json'
IMAGES_FILE = 'images.json'
_DISTRIBUTIONS = {
    'torch': 'torch',
    'mmengine': 'onedl-mmengine',
    'mmcv': 'onedl-mmcv',
    'mmseg': 'onedl-mmsegmentation',
    'numpy': 'numpy',
}


def jsonable(value: Any) -> Any:
    """Convert a value to JSON types.

    Args:
        value: Numbers, arrays and tensors, containers of them, paths.

    Returns:
        NaN and infinities become None, tuples lists, keys strings, other
        types their ``str``.
    """
    if isinstance(value, dict):
        return {str(k): jsonable(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [jsonable(v) for v in value]
    if isinstance(value, np.ndarray) or hasattr(value, 'tolist'):
        return jsonable(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, (bool, int, str)):
        return value
    return str(value)


def to_json(value: Any) -> str:
    """Format a value as readable JSON.

    Args:
        value: See :func:`jsonable`.

    Returns:
        Indented; a list of numbers, such as a row of a confusion matrix, stays
        on one line.
    """
    text = json.dumps(jsonable(value), indent=1, allow_nan=False)
    # A line break inside a string is escaped: only lists match.
    return re.sub(
        r'\[\n[^][{}"]*\]', lambda m: ' '.join(m.group().split()), text
    )


def _images_json(date, records):
    """Format the scores of images, one image a line."""
    lines = ',\n'.join(
        json.dumps(jsonable(record), allow_nan=False) for record in records
    )
    return f'{{"date": {json.dumps(date)}, "images": [\n{lines}\n]}}\n'


@functools.cache
def git_commit() -> str | None:
    """Return the commit of the checkout that the package runs from.

    Returns:
        The hash, followed by ``' and changes'`` if files of the package differ
        from it; None for an installed package or without git.
    """
    package = Path(__file__).resolve().parents[2]

    def git(*words):
        return subprocess.run(
            ['git', '-C', str(package), *words],
            capture_output=True,
            text=True,
            check=True,
            timeout=20,
        ).stdout.strip()

    try:
        # A package in site-packages may lie in the checkout of another
        # project, which does not know this file.
        git('ls-files', '--error-unmatch', 'version.py')
        changed = git('status', '--porcelain', '-uno', '--', '.')
        return git('rev-parse', 'HEAD') + (' and changes' if changed else '')
    except (OSError, subprocess.SubprocessError):
        return None


def _missing_weights(model, state_dict):
    """Return weights used in prediction that a checkpoint does not have."""
    optional = getattr(model, 'optional_in_checkpoint', ())
    found = {k.removeprefix('module.'): v for k, v in state_dict.items()}
    return [
        key
        for key, value in model.state_dict().items()
        if getattr(found.get(key), 'shape', None) != value.shape
        and not key.endswith('num_batches_tracked')
        and not has_prefix(key, optional)
    ]


@HOOKS.register_module()
class ResultsHook(Hook):
    """Write ``results.json`` after each validation and test.

    Written to the folder of the run's log, and to the work dir, where the
    next evaluation replaces it. Its keys: ``phase``
    (``'val'`` or ``'test'``), ``protocol``, ``metrics`` (as the metric
    returned them), ``domains`` and ``mean`` (where the metric groups by
    domain; percent, null for a class that does not occur), ``iteration``,
    ``checkpoint`` (path and sha256; null for weights that were not saved at
    this iteration), ``weights`` (``'trained'``, or what they are an average
    of), ``seed``, ``config`` (path and text), ``versions``,
    ``device``, ``processes``, ``resumed_with_changes`` (differences from an
    uninterrupted run with this config), ``seconds`` since the
    run began, ``date``, ``command``, ``commit`` (of the checkout that the
    package runs from; null without one), ``warnings`` (reasons to doubt the
    results, of
    :func:`~clouds_mmseg.utils.result_warnings.warn_about_results`; they are
    logged again below the tables).

    ``images.json`` beside it lists the scores of each image, where the metric
    has them: ``date`` (that of ``results.json``) and ``images``, see
    ``last_images`` of :class:`~clouds_mmseg.evaluation.DGIoUMetric`.
    """

    # After the checkpoint hook and the logger.
    priority = 'LOWEST'

    def __init__(self):
        self._begin = time.time()
        self._loaded = {}
        self._hashes = {}
        self._known_warnings = {}
        self._missing = []

    def before_run(self, runner: Runner) -> None:
        """Start the clock."""
        self._begin = time.time()

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Keep iteration, seed and missing weights of the checkpoint."""
        meta = checkpoint.get('meta')
        meta = meta if isinstance(meta, dict) else {}
        self._loaded = {k: meta.get(k) for k in ('iter', 'seed')}
        self._missing = _missing_weights(
            unwrap_model(runner.model), checkpoint.get('state_dict') or {}
        )

    def before_val_epoch(self, runner: Runner) -> None:
        """Record older warnings; warn about weights that were not loaded."""
        self._known_warnings = result_warnings(runner.message_hub)
        if runner.is_training:
            return
        path = runner.start_checkpoint
        if not path:
            warn_about_results(
                'No checkpoint was loaded: the weights are those that the '
                'model was built with.',
                key='no_checkpoint',
                hub=runner.message_hub,
            )
        elif self._missing:
            warn_about_results(
                f'{len(self._missing)} weights are not in '
                f'{path}, as load_cfg allows, and are those '
                'that the model was built with: ' + listed(self._missing),
                key='lacking_weights',
                hub=runner.message_hub,
            )

    before_test_epoch = before_val_epoch

    def after_val_epoch(
        self, runner: Runner, metrics: dict[str, float] | None = None
    ) -> None:
        """Write the results of a validation.

        Args:
            metrics: Values of the metrics.
        """
        evaluator = runner.val_evaluator
        self._write(runner, 'val', metrics or {}, evaluator)
        self._clear_warnings(runner)

    def after_test_epoch(
        self, runner: Runner, metrics: dict[str, float] | None = None
    ) -> None:
        """Write the results of a test.

        Args:
            metrics: Values of the metrics.
        """
        evaluator = runner.test_evaluator
        self._write(runner, 'test', metrics or {}, evaluator)
        self._clear_warnings(runner)

    def _clear_warnings(self, runner):
        """Remove the warnings about the finished evaluation."""
        current = result_warnings(runner.message_hub)
        new = [key for key in current if key not in self._known_warnings]
        forget_result_warnings(new, runner.message_hub)

    @master_only
    def _write(self, runner, phase, metrics, evaluator):
        """Collect the results and write them to log folder and work dir.

        Without labels there are no values, and older results are kept.
        """
        if not metrics:
            return
        results = dict(phase=phase, protocol=None, metrics=metrics)
        for metric in evaluator.metrics:
            results['protocol'] = getattr(metric, 'protocol', None)
            for key, value in getattr(metric, 'last_results', {}).items():
                results.setdefault(key, value)
        results.update(self._provenance(runner))
        warnings = list(result_warnings(runner.message_hub).values())
        results['warnings'] = warnings
        records = [
            record
            for metric in evaluator.metrics
            for record in getattr(metric, 'last_images', ())
        ]
        files = {
            IMAGES_FILE: _images_json(results['date'], records),
            RESULTS_FILE: to_json(results) + '\n',
        }
        for folder in (runner.log_dir, runner.work_dir):
            for name, text in files.items():
                with atomic_path(Path(folder) / name) as temporary:
                    temporary.write_text(text)
        runner.logger.info(f'Results: {Path(runner.work_dir, "results.json")}')
        if warnings:
            runner.logger.warning(
                'About the numbers above:'
                + ''.join(f'\n  - {message}' for message in warnings)
            )

    def _provenance(self, runner):
        """Collect the information to reproduce an evaluation."""
        if runner.is_training:
            iteration, seed = runner.iter, runner.seed
            saved = runner.message_hub.runtime_info.get('last_ckpt_iter')
            checkpoint = None
            if saved == iteration:
                checkpoint = runner.message_hub.get_info('last_ckpt')
        else:
            iteration = self._loaded.get('iter')
            seed = self._loaded.get('seed', runner.seed)
            checkpoint = runner.start_checkpoint
        versions = {
            name: metadata.version(distribution)
            for name, distribution in _DISTRIBUTIONS.items()
        }
        versions['clouds_mmseg'] = __version__
        return dict(
            iteration=iteration,
            checkpoint=self._checkpoint(checkpoint),
            weights=runner.message_hub.runtime_info.get(WEIGHTS_KEY)
            or 'trained',
            seed=seed,
            config=dict(path=runner.cfg.filename, text=runner.cfg.pretty_text),
            versions=versions,
            device=device_name(),
            processes=runner.world_size,
            resumed_with_changes=runner.message_hub.runtime_info.get(
                CHANGES_KEY, []
            ),
            seconds=round(time.time() - self._begin, 1),
            date=datetime.now(timezone.utc).isoformat(timespec='seconds'),
            command=shlex.join(sys.argv),
            commit=git_commit(),
        )

    def _checkpoint(self, path):
        """Return path and hash of a checkpoint; each file is hashed once."""
        if path is None:
            return None
        file = Path(path).expanduser()
        if not file.is_file():
            return dict(path=path, sha256=None)
        state = file.stat()
        key = (str(file), state.st_mtime_ns, state.st_size)
        if key not in self._hashes:
            self._hashes = {key: sha256_of(file)}
        return dict(path=str(file), sha256=self._hashes[key])
