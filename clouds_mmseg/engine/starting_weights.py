"""The checkpoint or pretrained weights that a run starts from."""

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


def is_remote(path: str) -> bool:
    """Whether a checkpoint is named by a scheme that mmengine fetches.

    Args:
        path: For example ``https://...`` or ``torchvision://...``.

    Returns:
        True for a URL, False for a path of this machine.
    """
    return '://' in path


def require_checkpoint(path: str, argument: str) -> str:
    """Refuse a local checkpoint that does not exist.

    Args:
        path: Path or URL.
        argument: Which argument or config key named it.

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
    """The newest checkpoint of a work dir, as ``last_checkpoint`` names it.

    Args:
        work_dir: Folder of an earlier run. It may have been moved since: the
            checkpoint is looked for beside the pointer as well.

    Returns:
        Path of the checkpoint, None where no run has saved one.

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
    """Read a checkpoint without running code that it may carry.

    Args:
        path: Local path of any of the formats of
            :func:`~clouds_mmseg.weights.io.read_content`, or a URL.
        map_location: Where the tensors go.
        resume: Whether a training is to go on from it.

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


_SHOWN = 5


def fetch_initial_weights(
    model: nn.Module,
    *,
    overwritten: Callable[[str], bool] = lambda part: False,
) -> None:
    """Make the pretrained weights of a config local files.

    The configs of MMSegmentation's zoo name them by address
    (``init_cfg=dict(type='Pretrained', checkpoint='https://...')``,
    ``pretrained='torchvision://resnet50'``). mmengine would fetch them when
    all datasets are open, run code that a pickle carries, and take whatever
    of them fits.

    Args:
        model: Its modules' ``init_cfg`` are changed.
        overwritten: Whether a checkpoint fills the module of a name
            afterwards: it needs no pretrained weights.

    Raises:
        MissingWeightsError: A file is not here and cannot be fetched.
        WeightFileError: Nothing can be read from it.
        UserError: It holds no weight of its module.
    """
    for name, module in model.named_modules():
        init_cfg = getattr(module, 'init_cfg', None)
        several = isinstance(init_cfg, (list, tuple))
        given = list(init_cfg) if several else [init_cfg] if init_cfg else []
        wanted = [cfg for cfg in given if cfg.get('type') == 'Pretrained']
        if wanted and overwritten(name):
            module.init_cfg = [cfg for cfg in given if cfg not in wanted]
            continue
        for cfg in wanted:
            cfg['checkpoint'] = _local(cfg['checkpoint'], name)
            _compare(module, name, cfg)


def _local(checkpoint, name):
    """Return the path of a checkpoint."""
    if not is_remote(checkpoint):
        return checkpoint
    return str(fetch_checkpoint(checkpoint, f'model.{name}') or checkpoint)


def _compare(module, name, cfg):
    """Say how much of a module a file has; nothing of it is a mistake."""
    path = cfg['checkpoint']
    if is_remote(path):
        return
    prefix = cfg.get('prefix') or 'backbone.'
    stored = {key.removeprefix(prefix) for key in read_state_dict(path)}
    # Counters change no output, and old files do not have them.
    own = [k for k in module.state_dict() if not k.endswith('_tracked')]
    absent = [key for key in own if key not in stored]
    if len(absent) == len(own):
        raise UserError(
            f'{path} holds no weight of model.{name} '
            f'({type(module).__name__}): it has {_some(sorted(stored))}, '
            f'wanted are {_some(own)}; give the weights of this architecture'
        )
    print_log(
        f'model.{name} starts from {path}: {len(own) - len(absent)} of '
        f'{len(own)} tensors'
        + (f'; random are {_some(absent)}' if absent else ''),
        logger='current',
    )


def _some(keys):
    """The first of some keys."""
    more = f' and {len(keys) - _SHOWN} more' if len(keys) > _SHOWN else ''
    return ', '.join(keys[:_SHOWN]) + more
