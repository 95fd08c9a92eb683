"""Read weight files of the formats that are found in the wild."""

import json
import pickle
import pickletools
import zipfile
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from clouds_mmseg.checkpoints.integrity import (
    HASH_BESIDE,
    HASH_KEY,
    WRAPPERS,
    BoundedReader,
    DamagedError,
    check_archive,
    check_content,
)
from clouds_mmseg.checkpoints.unpickling import (
    ArrayUnpickler,
    RefusedPickleError,
    as_tensors,
    training_names,
)
from clouds_mmseg.utils.errors import UserError

# What wrappers of a module put before all of its names: data-parallel
# training, torch.compile, Lightning.
_PREFIXES = ('module.', '_orig_mod.', 'model.')
# Numbers that OpenAI's archives keep beside the weights.
_ARCHIVE_NUMBERS = ('input_resolution', 'context_length', 'vocab_size')
# With what torch.save began before it wrote zip archives.
_OLD_TORCH = b'\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.'
# Entries of a safetensors file's metadata that are JSON.
_JSON_METADATA = ('dataset_meta', 'source', 'meta')


class WeightFileError(UserError, RuntimeError):
    """A file does not exist, or no weights can be read from it."""


def read_state_dict(
    path: str | Path, *, trust: bool = False
) -> dict[str, torch.Tensor]:
    """Read the weights of one file, whichever format it has.

    Args:
        path (str | Path): A file as :func:`read_content` reads it.
        trust (bool): As for :func:`read_content`.

    Returns:
        dict[str, Tensor]: Name -> value, on the CPU, dtypes as stored,
        without the prefixes ``module.``, ``model.`` and ``_orig_mod.`` of
        wrappers.

    Raises:
        WeightFileError: As :func:`read_content`, or it holds no tensors.
    """
    content = read_content(path, trust=trust)
    state_dict, _ = split_content(content, path)
    return state_dict


def read_content(
    path: str | Path, *, map_location='cpu', trust: bool = False
) -> dict:
    """Read one file as it was saved.

    Read are ``.safetensors``, files of ``torch.save`` (weights and what
    mmengine saves with them), pickled numpy arrays as detectron2 publishes
    them, and TorchScript archives, the form in which OpenAI published CLIP.
    Nothing in them is executed. The content decides, except for
    ``.safetensors``, not the name.

    Args:
        path (str | Path): The file.
        map_location (str | torch.device): Where the tensors go.
        trust (bool): Let a pickle run code. For files that the user made.

    Returns:
        dict: As saved; arrays are tensors. Of a safetensors file,
        ``state_dict`` and what its metadata says as ``meta``.

    Raises:
        WeightFileError: If it does not exist, is empty, truncated, a web
            page or a Git LFS pointer saved under the name of weights, or a
            pickle that would have to run code; or if its content is not
            that of its checksums (the CRC-32 of an archive's members,
            ``content_sha256`` of what this package has written).
    """
    path = Path(path).expanduser()
    if not path.is_file():
        kind = 'a folder, not a file' if path.is_dir() else 'no such file'
        raise WeightFileError(f'Weights {path}: {kind}.')
    head = _check_head(path)
    if path.suffix == '.safetensors':
        content = _read_safetensors(path, map_location)
    else:
        is_zip = zipfile.is_zipfile(path)
        if is_zip and _is_script(_members(path)):
            return _read_torchscript(path)
        content = _read_pickle(path, head, map_location, trust, is_zip)
    if not isinstance(content, dict):
        raise WeightFileError(
            f'{path} holds a {type(content).__name__}, not a state dict. '
            'Save model.state_dict() instead.'
        )
    try:
        check_content(content)
    except DamagedError as error:
        raise WeightFileError(
            f'{path}: {error}. It is damaged: fetch it again. If it was '
            f'changed on purpose, remove {HASH_KEY!r} from its meta.'
        ) from error
    return content


def split_content(content: dict, path: str | Path) -> tuple[dict, dict]:
    """Take the weights out of what a training script saved.

    Args:
        content (dict): What :func:`read_content` returned.
        path (str | Path): Where it came from, for the message.

    Returns:
        tuple[dict[str, Tensor], dict]: The weights, which lie under
        ``state_dict``, ``model_state_dict``, ``model`` or at the top, without
        the prefixes of wrappers; and all the rest.

    Raises:
        WeightFileError: If there are no weights, or something among them is
            no tensor.
    """
    for wrapper in WRAPPERS:
        if isinstance(content.get(wrapper), dict):
            weights = dict(content[wrapper])
            rest = {k: v for k, v in content.items() if k != wrapper}
            break
    else:
        weights, rest = dict(content), {}
    strangers = {
        k: type(v).__name__
        for k, v in weights.items()
        if not (isinstance(v, torch.Tensor) and isinstance(k, str))
    }
    if strangers or not weights:
        found = ', '.join(f'{k} ({t})' for k, t in list(strangers.items())[:5])
        raise WeightFileError(
            f'{path} holds no plain state dict (name -> tensor); found '
            f'{found or "nothing"}. Save model.state_dict() instead.'
        )
    return strip_prefixes(weights), rest


def count_tensors(value):
    """Count the tensors in nested containers.

    Args:
        value (Any): Dicts, lists and tuples.

    Returns:
        int: How many there are.
    """
    if isinstance(value, torch.Tensor):
        return 1
    if isinstance(value, dict):
        return sum(count_tensors(v) for v in value.values())
    if isinstance(value, (list, tuple)):
        return sum(count_tensors(v) for v in value)
    return 0


def strip_prefixes(weights):
    """Remove what wrappers of a module put before all of its names.

    Args:
        weights (dict[str, Any]): Names -> values.

    Returns:
        dict[str, Any]: Without the prefixes that every name has.
    """
    for prefix in _PREFIXES:
        if weights and all(key.startswith(prefix) for key in weights):
            return strip_prefixes(
                {key.removeprefix(prefix): v for key, v in weights.items()}
            )
    return weights


def _check_head(path):
    """Reject what downloads leave behind in place of weights."""
    with open(path, 'rb') as stream:
        head = stream.read(512)
    text = head.lstrip().lower()
    if not text:
        raise WeightFileError(f'{path} is empty; fetch it again.')
    if text.startswith((b'<!doctype', b'<html', b'<?xml')):
        raise WeightFileError(
            f'{path} is a web page, not weights: the address asked for a '
            'login or does not exist any more. Fetch the file itself.'
        )
    if text.startswith(b'version https://git-lfs'):
        raise WeightFileError(
            f'{path} is a Git LFS pointer, not weights; run `git lfs pull` '
            'where it comes from.'
        )
    return head


def _read_safetensors(path, map_location):
    known = isinstance(map_location, (str, torch.device))
    device = str(map_location) if known else 'cpu'
    try:
        with safe_open(path, 'pt', device=device) as file:
            metadata = file.metadata() or {}
            weights = {key: file.get_tensor(key) for key in file.keys()}
    except (SafetensorError, MemoryError, OverflowError) as error:
        raise WeightFileError(
            f'{path} is not a whole safetensors file ({error}); it is '
            'truncated or of another format. Fetch it again.'
        ) from error
    meta = {k: v for k, v in metadata.items() if k != 'format'}
    for key in _JSON_METADATA:
        try:
            meta[key] = json.loads(meta[key])
        except (KeyError, ValueError):
            # Absent, or another program's text under the same name.
            continue
    if isinstance(meta.get('meta'), dict):
        meta = {**meta.pop('meta'), **meta}
    content = dict(state_dict=weights, meta=meta)
    if HASH_BESIDE in meta:
        content[HASH_BESIDE] = meta.pop(HASH_BESIDE)
    return content


def is_torchscript(path):
    """Tell a TorchScript archive from a file of torch.save; both are zips.

    Args:
        path (Path): An existing file.

    Returns:
        bool: False for what is no zip.

    Raises:
        WeightFileError: It is a damaged zip.
    """
    return zipfile.is_zipfile(path) and _is_script(_members(path))


def _is_script(names):
    return any(name.endswith('/constants.pkl') for name in names)


def _members(path):
    """List a zip's members, each as it was written."""
    try:
        return check_archive(path)
    except DamagedError as error:
        raise _damaged(path, error) from error


def _read_torchscript(path):
    try:
        state_dict = torch.jit.load(path, map_location='cpu').state_dict()
    except Exception as error:
        # Its code is compiled: damage shows as any error.
        raise _damaged(path, error) from error
    for number in _ARCHIVE_NUMBERS:
        state_dict.pop(number, None)
    return dict(state_dict=state_dict)


def _read_pickle(path, head, map_location, trust, is_zip):
    if not is_zip and head[:1].decode('latin1') not in pickletools.code2op:
        raise _damaged(path, 'it is neither an archive nor a pickle')
    plain = head.startswith(b'\x80') and not head.startswith(_OLD_TORCH)
    try:
        if plain or (path.suffix == '.pkl' and not is_zip):
            return _read_arrays(path, trust)
        with training_names(), BoundedReader(path) as stream:
            return torch.load(
                stream, map_location=map_location, weights_only=not trust
            )
    except RefusedPickleError as error:
        raise _refused(path, error) from error
    except pickle.UnpicklingError as error:
        if 'weights_only' not in str(error).lower():
            raise _damaged(path, error) from error
        lines = str(error).strip().splitlines()
        blocked = next((ln for ln in lines if 'GLOBAL' in ln), lines[0])
        raise _refused(path, blocked.strip()) from error
    except MemoryError as error:
        raise WeightFileError(
            f'{path} ({path.stat().st_size} bytes) asks for more memory than '
            'there is: a length in it is damaged, or the machine is too '
            'small for it. Fetch it again.'
        ) from error
    except Exception as error:
        # Garbage makes the unpickler fail in any way: KeyError, EOFError, ...
        raise _damaged(path, error) from error


def _read_arrays(path, trust):
    with BoundedReader(path) as stream:
        if trust:
            return as_tensors(pickle.load(stream, encoding='latin1'))
        return as_tensors(ArrayUnpickler(stream).load())


def _refused(path, what):
    return WeightFileError(
        f'{path} is a pickle that needs code to be run to read it, which is '
        f'refused ({what}). If you made the file yourself, write its weights '
        f'anew: python tools/publish_model.py {path} OUT.safetensors --trust. '
        'A damaged file can look like this, too: fetch it again.'
    )


def _damaged(path, error):
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
    # torch goes on at length about what may have happened.
    reason = reason.split('. ')[0]
    return WeightFileError(
        f'{path} ({path.stat().st_size} bytes) cannot be read as weights '
        f'({reason}); it is truncated, damaged or of another format. Fetch '
        'it again.'
    )
