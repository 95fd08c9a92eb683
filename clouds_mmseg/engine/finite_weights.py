"""Weights that a run may go on with, and what to say where it may not."""

import os.path as osp

from mmengine.dist import all_gather_object, get_world_size

from clouds_mmseg.engine.run_header import bare_model
from clouds_mmseg.utils.finite import (
    NonFiniteError,
    listed,
    nonfinite_weights,
)


def require_finite_weights(runner, what, module=None):
    """Stop, in all processes, where weights are NaN or infinite.

    Args:
        runner (Runner): The runner; every process has to call this.
        what (str): Whose weights they are, and when: the beginning of the
            message.
        module (nn.Module, optional): A part of the model. Defaults to all
            of it.

    Raises:
        NonFiniteError: The names of the tensors are in the message, and
            the last good checkpoint in that of a training.
    """
    bad = nonfinite_weights(module or bare_model(runner.model))
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
    if hasattr(runner._train_loop, 'iter'):
        message += f' {last_good(runner)}'
    stop(runner, message)


def last_good(runner):
    """Say which checkpoint to go on from.

    Args:
        runner (Runner): Of a training.

    Returns:
        str: A sentence. Every checkpoint has finite weights; the good one
        is the newest with which a step's losses and gradients were finite.
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


def note_good_step(runner):
    """Note that losses and gradients of the newest checkpoint are finite.

    Args:
        runner (Runner): In an iteration whose numbers are finite, before
            anything is saved.
    """
    newest = runner.message_hub.get_info('last_ckpt')
    if newest is not None:
        runner.message_hub.update_info('proven_ckpt', newest)


def _find(runner, key):
    """Path of a checkpoint that the message hub names, None without."""
    path = runner.message_hub.get_info(key)
    if path is None:
        return None
    beside = osp.join(runner.work_dir, osp.basename(path))
    if not osp.exists(path) and osp.exists(beside):
        return beside  # The folder has been moved since.
    return path


def stop(runner, message):
    """End a run, and write why into its log.

    Args:
        runner (Runner): The runner.
        message (str): What the tool prints as well.

    Raises:
        NonFiniteError: Always.
    """
    # Not shown on the terminal, where the error itself will be.
    runner.logger.info(f'Stopped: {message}')
    error = NonFiniteError(message)
    error.is_told = True
    raise error
