"""State of a run, for hooks and the log: model, weights, checkpoints."""

import os.path as osp
from typing import Any

from mmengine.dist import all_gather_object, get_world_size
from mmengine.model import BaseTTAModel, is_model_wrapper
from mmengine.runner import Runner
from torch import nn

from clouds_mmseg.engine.data_check import (
    domain_counts,
)
from clouds_mmseg.utils.device import device_name
from clouds_mmseg.utils.finite import (
    NonFiniteError,
    listed,
    nonfinite_weights,
)

# Datasets of more domains than this are summarised, not listed.
_MAX_LISTED_DOMAINS = 12

# Message hub key: what the evaluated weights are, if not those trained.
WEIGHTS_KEY = 'evaluated_weights'
# Of a checkpoint of EMAHook, and of the names in it.
AVERAGE_KEY, AVERAGE_PREFIX = 'ema_state_dict', 'module.'


def unwrap_model(model: nn.Module) -> nn.Module:
    """Return the model inside distributed and test-time augmentation wrappers.

    Args:
        model: ``model`` of a runner.

    Returns:
        The segmentor.
    """
    while is_model_wrapper(model) or isinstance(model, BaseTTAModel):
        model = model.module
    return model


def swap_average(checkpoint: dict[str, Any]) -> None:
    """Exchange ``state_dict`` and ``ema_state_dict`` of a checkpoint.

    Args:
        checkpoint: Saved by an ``EMAHook``. Changed in place.
    """
    weights, average = checkpoint['state_dict'], checkpoint[AVERAGE_KEY]
    for key in average:
        name = key.removeprefix(AVERAGE_PREFIX)
        if key != name and name in weights:
            average[key], weights[name] = weights[name], average[key]


def require_finite_weights(
    runner: Runner, what: str, module: nn.Module | None = None
) -> None:
    """Stop all processes if weights are NaN or infinite.

    Args:
        runner: Every process has to call this.
        what: Description of the weights, the beginning of the message.
        module: A part of the model. Defaults to all of it.

    Raises:
        NonFiniteError: The message names the tensors and, in training, the
            last good checkpoint.
    """
    bad = nonfinite_weights(module or unwrap_model(runner.model))
    if get_world_size() > 1:
        parts = all_gather_object(bad)
        bad = {key: n for part in parts for key, n in part.items()}
    if not bad:
        return
    names = [f'{k} ({n} of {m} values)' for k, (n, m) in bad.items()]
    count = f'{len(bad)} tensor' + ('' if len(bad) == 1 else 's')
    message = (
        f'{what} are not finite: NaN or infinity in {count}: {listed(names)}.'
    )
    if runner.is_training:
        message += f' {last_good_checkpoint(runner)}'
    stop(runner, message)


def last_good_checkpoint(runner: Runner) -> str:
    """Return a sentence on the checkpoint to continue from.

    Args:
        runner: Of a training.

    Returns:
        A sentence. Every checkpoint has finite weights; the good one is the
        newest with which a step's losses and gradients were finite.
    """
    newest = _find(runner, 'last_ckpt')
    proven = _find(runner, 'proven_ckpt')
    if newest is None:
        return 'This run has not saved a checkpoint yet.'
    if newest == proven:
        return f'The last good checkpoint is {newest}.'
    return (
        f'The newest checkpoint, {newest}, has finite weights, but no step '
        'with finite numbers has been made from it; the last from which one '
        f'has: {proven or "none of this run"}.'
    )


def record_good_step(runner: Runner) -> None:
    """Record that the newest checkpoint gives finite losses and gradients.

    Args:
        runner: In an iteration with finite losses and gradients, before a
            checkpoint is saved.
    """
    newest = runner.message_hub.get_info('last_ckpt')
    if newest is not None:
        runner.message_hub.update_info('proven_ckpt', newest)


def _find(runner, key):
    """Return the checkpoint path stored in the message hub, if any."""
    path = runner.message_hub.get_info(key)
    if path is None:
        return None
    beside = osp.join(runner.work_dir, osp.basename(path))
    if not osp.exists(path) and osp.exists(beside):
        return beside  # The folder has been moved since.
    return path


def stop(runner: Runner, message: str) -> None:
    """Log the reason and stop the run.

    Args:
        message: Reason; the command line tool prints it as well.

    Raises:
        NonFiniteError: Always.
    """
    # For the log file; the terminal shows the error itself.
    runner.logger.info(f'Stopped: {message}')
    error = NonFiniteError(message)
    error.is_told = True
    raise error


def run_header(runner: Runner, *splits: str) -> str:
    """Summarise a run for the log.

    Args:
        runner: The runner, with its model built.
        *splits: The loops that will run: ``'train'``, ``'val'``, ``'test'``.
            Their datasets are built by this.

    Returns:
        Config, folder, device, model, images of each domain, schedule.
    """
    model = unwrap_model(runner.model)
    parameters = list(model.parameters())
    total = sum(p.numel() for p in parameters)
    trained = sum(p.numel() for p in parameters if p.requires_grad)
    device = device_name()
    if runner.world_size > 1:
        device += f', {runner.world_size} processes'
    rows = [
        ('config', runner.cfg.filename),
        ('work dir', runner.work_dir),
        ('device', device),
        (
            'model',
            f'{type(model).__name__}, {total / 1e6:.2f} M parameters, '
            f'{trained / 1e6:.2f} M trainable',
        ),
    ]
    path = runner.start_checkpoint
    if path is not None:
        rows.append(('resume' if runner.is_resumed else 'weights', path))
    for split in splits:
        loop = getattr(runner, f'{split}_loop')
        if loop is not None:
            counts = domain_counts(loop.dataloader.dataset)
            text = ', '.join(f'{k} {v}' for k, v in counts.items())
            if len(counts) > _MAX_LISTED_DOMAINS:
                text = f'{sum(counts.values())} images, {len(counts)} domains'
            rows.append((split, text))
    if 'train' in splits:
        batch = runner.train_dataloader.batch_size
        rows.append(
            (
                'schedule',
                f'{runner.max_iters} iterations, batch {batch}'
                f' x {runner.world_size}, seed {runner.seed}',
            )
        )
    return 'The run:' + ''.join(f'\n  {k:<9} {v}' for k, v in rows)
