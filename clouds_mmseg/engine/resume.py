"""Which checkpoint a run starts from, and reading it safely."""

import os.path as osp

from clouds_mmseg.checkpoints.fetch import read_remote
from clouds_mmseg.checkpoints.files import read_content, split_content
from clouds_mmseg.utils.errors import UserError


def is_remote(path):
    """Whether a checkpoint is named by a scheme that mmengine fetches.

    Args:
        path (str): For example ``https://...`` or ``torchvision://...``.

    Returns:
        bool: True for a URL, False for a path of this machine.
    """
    return '://' in path


def require_checkpoint(path, argument):
    """Refuse a local checkpoint that does not exist.

    Args:
        path (str): Path or URL.
        argument (str): Which argument or config key named it.

    Returns:
        str: The path, with ``~`` expanded.

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


def find_last_checkpoint(work_dir):
    """The newest checkpoint of a work dir, as ``last_checkpoint`` names it.

    Args:
        work_dir (str): Folder of an earlier run. It may have been moved
            since: the checkpoint is looked for beside the pointer as well.

    Returns:
        str | None: Path of the checkpoint, None where no run has saved one.

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


def read_checkpoint(path, map_location='cpu', *, resume=False):
    """Read a checkpoint without running code that it may carry.

    Args:
        path (str): Local path of any of the formats of
            :func:`~clouds_mmseg.checkpoints.files.read_content`, or a URL.
        map_location (str | torch.device): Where the tensors go.
        resume (bool): Whether a training is to go on from it.

    Returns:
        dict: The checkpoint as saved, its weights under ``state_dict``
        without the prefixes of wrappers.

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
