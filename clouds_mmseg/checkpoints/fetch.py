"""Checkpoints that are named by an address."""

import os
import pickle
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import unquote, urlparse

import torch
from mmengine.dist import barrier, is_main_process
from mmengine.runner.checkpoint import CheckpointLoader

from clouds_mmseg.checkpoints.files import read_content
from clouds_mmseg.checkpoints.unpickling import training_names
from clouds_mmseg.utils.errors import UserError

_FORCE = 'TORCH_FORCE_WEIGHTS_ONLY_LOAD'


def read_remote(address, map_location='cpu'):
    """Read a checkpoint from an address, without running code in it.

    Args:
        address (str): ``http://`` or ``https://``, kept in torch's cache
            under the name of the file; or another scheme of mmengine, such
            as ``torchvision://resnet50``.
        map_location (str | torch.device): Where the tensors go.

    Returns:
        dict: As saved.

    Raises:
        UserError: It cannot be fetched, or is not a checkpoint.
    """
    if address.startswith(('http://', 'https://')):
        return read_content(fetch(address), map_location=map_location)
    try:
        # mmengine reads what it fetched without asking for weights only.
        with _weights_only():
            return CheckpointLoader.load_checkpoint(address, map_location)
    except (OSError, KeyError, pickle.UnpicklingError) as error:
        raise UserError(
            f'the checkpoint {address} could not be read '
            f'({type(error).__name__}: {error}); give the path of a file'
        ) from error


def fetch(address):
    """Fetch a file unless it is in torch's cache.

    Args:
        address (str): ``http://`` or ``https://``.

    Returns:
        Path: Where it is.

    Raises:
        UserError: It cannot be fetched.
    """
    name = unquote(Path(urlparse(address).path).name)
    if not name:
        raise UserError(f'{address} names no file.')
    path = Path(torch.hub.get_dir()) / 'checkpoints' / name
    problem = None
    if is_main_process() and not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            # Written under another name and moved when it is complete.
            torch.hub.download_url_to_file(address, path, progress=False)
        except OSError as error:
            problem = error
    barrier()
    if problem is not None or not path.is_file():
        raise UserError(
            f'the checkpoint {address} could not be fetched ({problem}). '
            f'Fetch it elsewhere and give its path, or put it at {path}.'
        ) from problem
    return path


@contextmanager
def _weights_only():
    """Let torch.load read weights only, whatever its caller asks for."""
    before = os.environ.get(_FORCE)
    os.environ[_FORCE] = '1'
    try:
        with training_names():
            yield
    finally:
        if before is None:
            del os.environ[_FORCE]
        else:
            os.environ[_FORCE] = before
