"""Read weight files of the formats that are found in the wild."""

import pickle
import zipfile
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from clouds_mmseg.utils.errors import UserError

# Under which key training scripts put the weights, tried in this order.
_WRAPPERS = ('state_dict', 'model_state_dict', 'model')
# Numbers that OpenAI's archives keep beside the weights.
_ARCHIVE_NUMBERS = ('input_resolution', 'context_length', 'vocab_size')


class WeightFileError(UserError, RuntimeError):
    """A file does not exist, or no weights can be read from it."""


def read_state_dict(path: str | Path) -> dict[str, torch.Tensor]:
    """Read the weights of one file, whichever format it has.

    Read are ``.safetensors``, files of ``torch.save`` (weights only: nothing
    in them is executed) and TorchScript archives, the form in which OpenAI
    published CLIP. Weights that lie under ``state_dict``,
    ``model_state_dict`` or ``model`` are taken out, and the prefix
    ``module.`` of data-parallel training is removed.

    Args:
        path (str | Path): The file.

    Returns:
        dict[str, Tensor]: Name -> value, on the CPU, dtypes as stored.

    Raises:
        WeightFileError: If it does not exist, is empty, truncated, a web
            page or a Git LFS pointer saved under the name of weights, a
            pickle that would have to run code, or holds no tensors.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        kind = 'a folder, not a file' if path.is_dir() else 'no such file'
        raise WeightFileError(f'Weights {path}: {kind}.')
    _check_head(path)
    if path.suffix == '.safetensors':
        content = _read_safetensors(path)
    elif is_torchscript(path):
        content = _read_torchscript(path)
    else:
        content = _read_pickle(path)
    state_dict = _strip_module(_unwrap(content, path))
    strangers = {
        k: type(v).__name__
        for k, v in state_dict.items()
        if not isinstance(v, torch.Tensor)
    }
    if strangers or not state_dict:
        found = ', '.join(f'{k} ({t})' for k, t in list(strangers.items())[:5])
        raise WeightFileError(
            f'{path} holds no plain state dict (name -> tensor); found '
            f'{found or "nothing"}. Save model.state_dict() instead.'
        )
    return state_dict


def _check_head(path):
    """Reject what downloads leave behind in place of weights."""
    with open(path, 'rb') as stream:
        head = stream.read(512).lstrip().lower()
    if not head:
        raise WeightFileError(f'{path} is empty; fetch it again.')
    if head.startswith((b'<!doctype', b'<html', b'<?xml')):
        raise WeightFileError(
            f'{path} is a web page, not weights: the address asked for a '
            'login or does not exist any more. Fetch the file itself.'
        )
    if head.startswith(b'version https://git-lfs'):
        raise WeightFileError(
            f'{path} is a Git LFS pointer, not weights; run `git lfs pull` '
            'where it comes from.'
        )


def _read_safetensors(path):
    try:
        return load_file(path)
    except SafetensorError as error:
        raise WeightFileError(
            f'{path} is not a whole safetensors file ({error}); it is '
            'truncated or of another format. Fetch it again.'
        ) from error


def is_torchscript(path):
    """Tell a TorchScript archive from a file of torch.save; both are zips."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(n.endswith('/constants.pkl') for n in archive.namelist())


def _read_torchscript(path):
    try:
        state_dict = torch.jit.load(path, map_location='cpu').state_dict()
    except RuntimeError as error:
        raise _damaged(path, error) from error
    for number in _ARCHIVE_NUMBERS:
        state_dict.pop(number, None)
    return state_dict


def _read_pickle(path):
    try:
        return torch.load(path, map_location='cpu', weights_only=True)
    except pickle.UnpicklingError as error:
        if 'weights_only' not in str(error).lower():
            raise _damaged(path, error) from error
        first = str(error).strip().splitlines()
        blocked = next((ln for ln in first if 'GLOBAL' in ln), first[0])
        raise WeightFileError(
            f'{path} is a pickle that needs code to be run to read it, which '
            f'is refused ({blocked.strip()}). Where you trust it, load it '
            'once by hand and save only its state_dict.'
        ) from error
    except Exception as error:
        # Garbage makes the unpickler fail in any way: KeyError, EOFError, ...
        raise _damaged(path, error) from error


def _damaged(path, error):
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return WeightFileError(
        f'{path} cannot be read as weights ({reason}); it is truncated or of '
        'another format. Fetch it again.'
    )


def _unwrap(content, path):
    """Return the dict of weights inside what a training script saved."""
    if not isinstance(content, dict):
        raise WeightFileError(
            f'{path} holds a {type(content).__name__}, not a state dict. '
            'Save model.state_dict() instead.'
        )
    for wrapper in _WRAPPERS:
        if isinstance(content.get(wrapper), dict):
            return dict(content[wrapper])
    return dict(content)


def _strip_module(state_dict):
    """Remove the prefix that (Distributed)DataParallel adds to all keys."""
    if state_dict and all(k.startswith('module.') for k in state_dict):
        return {k.removeprefix('module.'): v for k, v in state_dict.items()}
    return state_dict
