"""Checkpoints and pretrained weights that a run starts from."""

import os.path as osp
from collections.abc import Callable

import torch
from mmengine.logging import print_log
from torch import nn

from clouds_mmseg.utils.errors import UserError
from clouds_mmseg.weights.io import (
    read_content,
    read_state_dict,
    split_content,
)
from clouds_mmseg.weights.locate import fetch_checkpoint, read_remote

# Names of weights listed in a message.
_MAX_LISTED = 5


def is_remote(path: str) -> bool:
    """Return whether a checkpoint path is a URL that mmengine downloads.

    Args:
        path: For example ``https://...`` or ``torchvision://...``.

    Returns:
        True for a URL, False for a local path.
    """
    return '://' in path


def require_checkpoint(path: str, argument: str) -> str:
    """Refuse a local checkpoint that does not exist.

    Args:
        path: Path or URL.
        argument: Argument or config key that names it, for the message.

    Returns:
        The path, with ``~`` expanded.

    Raises:
        UserError: There is no such file.
    """
    if is_remote(path):
        return path
    path = osp.expanduser(path)
    if not osp.isfile(path):
        raise UserError(
            f'{argument} names the checkpoint {path}, and there is no such '
            'file; give the path of an existing checkpoint'
        )
    return path


def find_last_checkpoint(work_dir: str) -> str | None:
    """Return the newest checkpoint of a work dir, per ``last_checkpoint``.

    Args:
        work_dir: Folder of an earlier run. It may have been moved since: the
            checkpoint is also searched beside ``last_checkpoint``.

    Returns:
        Path of the checkpoint, None if no run has saved one.

    Raises:
        UserError: ``last_checkpoint`` names a file that is gone.
    """
    pointer = osp.join(work_dir, 'last_checkpoint')
    if not osp.isfile(pointer):
        return None
    with open(pointer) as stream:
        path = stream.read().strip()
    for candidate in (path, osp.join(work_dir, osp.basename(path))):
        if osp.isfile(candidate):
            return candidate
    raise UserError(
        f'{pointer} names {path!r}, and there is no such file; write the '
        'path of an existing checkpoint into it, or remove it to start anew'
    )


def read_checkpoint(
    path: str,
    map_location: str | torch.device = 'cpu',
    *,
    resume: bool = False,
) -> dict:
    """Read a checkpoint without executing pickled code.

    Args:
        path: Local path of any of the formats of
            :func:`~clouds_mmseg.weights.io.read_content`, or a URL.
        map_location: Device of the tensors.
        resume: Whether a training is resumed from it.

    Returns:
        The checkpoint as saved, its weights under ``state_dict`` without the
        prefixes of wrappers.

    Raises:
        UserError: The file is missing, truncated or no checkpoint, holds
            objects other than tensors and plain values, or has weights only
            and is to be resumed.
    """
    if is_remote(path):
        content = read_remote(path, map_location)
    else:
        path = require_checkpoint(path, 'load_from')
        content = read_content(path, map_location=map_location)
    weights, rest = split_content(content, path)
    if resume and 'optimizer' not in rest:
        raise UserError(
            f'resume names {path}, which has weights and no state of an '
            'optimiser: give a checkpoint that a training saved, or begin a '
            f'new training with --cfg-options load_from={path}'
        )
    return dict(rest, state_dict=weights)


def fetch_initial_weights(
    model: nn.Module,
    *,
    overwritten: Callable[[str], bool] = lambda part: False,
) -> None:
    """Download the pretrained weights that a config names by URL.

    The configs of MMSegmentation's zoo contain URLs
    (``init_cfg=dict(type='Pretrained', checkpoint='https://...')``,
    ``pretrained='torchvision://resnet50'``). mmengine would download them
    after opening all datasets, execute pickled code, and load the matching
    part silently.

    Args:
        model: The ``init_cfg`` of its modules are changed in place.
        overwritten: Takes a module's name; returns whether a checkpoint
            overwrites the module, which then needs no pretrained weights.

    Raises:
        MissingWeightsError: A file is missing and cannot be downloaded.
        WeightFileError: A file is unreadable.
        UserError: A file has no weight of its module.
    """
    for name, module in model.named_modules():
        init_cfg = getattr(module, 'init_cfg', None)
        if isinstance(init_cfg, (list, tuple)):
            given = list(init_cfg)
        else:
            given = [init_cfg] if init_cfg else []
        pretrained = [c for c in given if c.get('type') == 'Pretrained']
        if pretrained and overwritten(name):
            module.init_cfg = [c for c in given if c not in pretrained]
            continue
        for cfg in pretrained:
            cfg['checkpoint'] = _local_path(cfg['checkpoint'], name)
            _report_coverage(module, name, cfg)


def _local_path(checkpoint, name):
    """Return the local path of a checkpoint, downloaded if needed."""
    if not is_remote(checkpoint):
        return checkpoint
    return str(fetch_checkpoint(checkpoint, f'model.{name}') or checkpoint)


def _report_coverage(module, name, cfg):
    """Log how many weights of a module a file has; none is an error."""
    path = cfg['checkpoint']
    if is_remote(path):
        return
    prefix = cfg.get('prefix') or 'backbone.'
    stored = {key.removeprefix(prefix) for key in read_state_dict(path)}
    # BatchNorm counters affect no output and are missing in old files.
    own = [k for k in module.state_dict() if not k.endswith('_tracked')]
    absent = [key for key in own if key not in stored]
    if len(absent) == len(own):
        raise UserError(
            f'{path} holds no weight of model.{name} '
            f'({type(module).__name__}): it has {_some(sorted(stored))}, '
            f'expected are {_some(own)}; give the weights of this architecture'
        )
    print_log(
        f'model.{name} starts from {path}: {len(own) - len(absent)} of '
        f'{len(own)} tensors'
        + (f'; random are {_some(absent)}' if absent else ''),
        logger='current',
    )


def _some(keys):
    """Join the first keys for a message."""
    more = (
        f' and {len(keys) - _MAX_LISTED} more'
        if len(keys) > _MAX_LISTED
        else ''
    )
    return ', '.join(keys[:_MAX_LISTED]) + more
