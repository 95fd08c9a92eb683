"""Write weights with what is known about them, whole or not at all."""

import json
import pickle
from pathlib import Path

import torch
from safetensors.torch import save_file

from clouds_mmseg.checkpoints.integrity import (
    HASH_BESIDE,
    HASH_KEY,
    content_sha256,
)
from clouds_mmseg.utils.atomic import atomic_path
from clouds_mmseg.utils.bank_manifest import sha256_of
from clouds_mmseg.utils.errors import UserError
from clouds_mmseg.version import __version__

SUFFIXES = ('.pth', '.pt', '.safetensors')


def check_suffix(path, *, pickled=False):
    """Refuse the name of a file that cannot be written.

    Args:
        path (str | Path): Where weights are to go.
        pickled (bool): Whether ``.pkl`` is allowed as well.

    Returns:
        Path: The path, with ``~`` expanded.

    Raises:
        UserError: Another suffix than ``.pth``, ``.pt``, ``.safetensors``,
            or a folder.
    """
    path = Path(path).expanduser()
    known = (*SUFFIXES, '.pkl') if pickled else SUFFIXES
    if path.suffix not in known:
        raise UserError(
            f'{path}: weights are written as {", ".join(known)}, not as '
            f'{path.suffix or "a file without suffix"}.'
        )
    if path.is_dir():
        raise UserError(f'{path} is a folder; give the name of a file.')
    return path


def write_weights(path, weights, meta=None, *, wrapper='state_dict'):
    """Write weights under a temporary name, then rename.

    The hash of the content is written with it, and compared by whatever
    reads it with
    :func:`~clouds_mmseg.checkpoints.files.read_content`.

    Args:
        path (str | Path): ``.pth`` or ``.pt`` for torch, ``.safetensors``
            for safetensors, ``.pkl`` for detectron2's pickle of arrays.
        weights (dict[str, Tensor]): Names -> values; on any device.
        meta (dict, optional): What is known about them: ``cfg`` (the text of
            a config), ``dataset_meta`` (``classes``, ``palette``),
            ``source``, and plain values.
        wrapper (str): The key of a torch file under which the weights lie.

    Returns:
        str: sha256 of the file, 64 hexadecimal digits.

    Raises:
        UserError: Another suffix, or no right to write.
    """
    path = check_suffix(path, pickled=True)
    weights = _apart(weights)
    meta = plain(dict(meta or {}, clouds_mmseg_version=__version__))
    meta[HASH_KEY] = content_sha256(weights, meta)
    try:
        with atomic_path(path) as temporary:
            if path.suffix == '.safetensors':
                save_file(weights, temporary, metadata=as_metadata(meta))
            elif path.suffix == '.pkl':
                arrays = {key: value.numpy() for key, value in weights.items()}
                content = {wrapper: arrays, '__author__': 'clouds_mmseg'}
                # By two names: damage to one does not hide the other.
                content |= {'meta': meta, HASH_BESIDE: meta[HASH_KEY]}
                temporary.write_bytes(pickle.dumps(content))
            else:
                torch.save({'meta': meta, wrapper: weights}, temporary)
            return sha256_of(temporary)
    except OSError as error:
        raise UserError(f'{path} cannot be written: {error}') from error


def as_metadata(meta):
    """Turn what is known about weights into text, as safetensors has it.

    Args:
        meta (dict): As for :func:`write_weights`.

    Returns:
        dict[str, str]: ``cfg``, ``content_sha256`` and
        ``clouds_mmseg_version`` as they are;
        ``dataset_meta``, ``source`` and, with all the rest, ``meta`` as
        JSON.
    """
    meta = dict(meta)
    metadata = dict(
        format='pt', clouds_mmseg_version=meta.pop('clouds_mmseg_version')
    )
    if meta.get(HASH_KEY):
        # By two names: damage to one does not hide the other.
        metadata[HASH_BESIDE] = metadata[HASH_KEY] = meta.pop(HASH_KEY)
    if meta.get('cfg'):
        metadata['cfg'] = str(meta.pop('cfg'))
    for key in ('dataset_meta', 'source'):
        if meta.get(key):
            metadata[key] = json.dumps(meta.pop(key))
    if meta:
        metadata['meta'] = json.dumps(meta)
    return metadata


def plain(value):
    """Turn a value into what JSON holds.

    Args:
        value (Any): Containers, numbers, text; numpy and tensors.

    Returns:
        Any: Dicts with text as keys, lists, numbers, text.
    """
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple, set)):
        return [plain(v) for v in value]
    if hasattr(value, 'tolist'):
        return plain(value.tolist())
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    return str(value)


def _apart(weights):
    """Give each tensor a memory of its own, on the CPU.

    A slice would be saved with all of what it is a slice of, and safetensors
    refuses tensors that share memory.
    """
    apart, seen = {}, set()
    for key, value in weights.items():
        value = value.detach().cpu().contiguous()
        storage = value.untyped_storage()
        if storage.nbytes() != value.nbytes or storage.data_ptr() in seen:
            value = value.clone()
        seen.add(value.untyped_storage().data_ptr())
        apart[key] = value
    return apart
