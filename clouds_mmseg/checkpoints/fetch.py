"""Checkpoints that are named by an address."""

import os
import pickle
from contextlib import contextmanager

from mmengine.runner.checkpoint import CheckpointLoader

from clouds_mmseg.checkpoints.files import read_content
from clouds_mmseg.checkpoints.unpickling import training_names
from clouds_mmseg.utils.errors import UserError
from clouds_mmseg.utils.zoo_address import fetch_checkpoint

_FORCE = 'TORCH_FORCE_WEIGHTS_ONLY_LOAD'


def read_remote(address, map_location='cpu'):
    """Read a checkpoint from an address, without running code in it.

    Args:
        address (str): ``https://...``, ``torchvision://resnet50`` and the
            like: from the pretrained folder, torch's cache, or fetched; or
            another scheme of mmengine, such as ``s3://...``.
        map_location (str | torch.device): Where the tensors go.

    Returns:
        dict: As saved.

    Raises:
        UserError: It cannot be fetched, or is not a checkpoint.
    """
    path = fetch_checkpoint(address, 'the checkpoint')
    if path is not None:
        return read_content(path, map_location=map_location)
    try:
        # mmengine reads what it fetched without asking for weights only.
        with _weights_only():
            return CheckpointLoader.load_checkpoint(address, map_location)
    except (OSError, KeyError, pickle.UnpicklingError) as error:
        raise UserError(
            f'the checkpoint {address} could not be read '
            f'({type(error).__name__}: {error}); give the path of a file'
        ) from error


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
