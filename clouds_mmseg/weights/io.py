"""Reading and writing of weight files.

Pickles are read without running what they may carry.
"""

import json
import pickle
import pickletools
import zipfile
from collections import OrderedDict
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from mmengine.logging.history_buffer import HistoryBuffer
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from clouds_mmseg.utils.atomic import atomic_path
from clouds_mmseg.utils.errors import UserError
from clouds_mmseg.utils.image_set import sha256_of
from clouds_mmseg.version import __version__
from clouds_mmseg.weights.integrity import (
    HASH_BESIDE,
    HASH_KEY,
    WRAPPERS,
    BoundedReader,
    DamagedError,
    check_archive,
    check_content,
    content_sha256,
)

# numpy renamed the module in version 2; files of both exist.
_ARRAY_MODULES = ('numpy.core.multiarray', 'numpy._core.multiarray')
_BUFFER_MODULES = ('numpy.core.numeric', 'numpy._core.numeric')
# Protocol 2 names the modules of Python 2.
_BUILTINS = ('builtins', '__builtin__')
_PLAIN_KINDS = 'biufcSU'
# Detectron's files were written by Python 2.
_ENCODING = 'latin1'


class RefusedPickleError(pickle.UnpicklingError):
    """A pickle names something that does not belong to weights.

    Attributes:
        name (str): What it names, ``module.function``.
    """

    def __init__(self, name):
        super().__init__(f'the pickle names {name}')
        self.name = name


class _Makers:
    """Makers of arrays that pickles call, each refusing what is odd.

    Their bound methods are what a pickle receives. Unlike plain functions
    these have no attributes that it could set.
    """

    def reconstruct(self, subtype, shape, typecode):
        if subtype is not np.ndarray:
            raise RefusedPickleError(getattr(subtype, '__name__', '?'))
        return np.ndarray.__new__(np.ndarray, shape, _plain(typecode))

    def scalar(self, dtype, data):
        return np.frombuffer(data, _plain(dtype), count=1)[0]

    def frombuffer(self, data, dtype, shape, order, axes=None):
        array = np.frombuffer(data, _plain(dtype))
        if axes is not None:
            return array.reshape(shape).transpose(axes)
        return array.reshape(shape, order=order)

    def no_bytes(self):
        # How protocol 2 writes b''.
        return b''

    def encode(self, text, encoding='latin1'):
        # How protocol 2 writes bytes. A codec may be any module.
        if encoding not in ('latin1', 'latin-1'):
            raise RefusedPickleError(f'the codec {encoding}')
        return text.encode('latin1')

    def history_method(self, owner, name):
        # How protocol 2 writes the methods of mmengine's log buffers. The
        # real getattr reaches the globals of any function.
        if owner is not HistoryBuffer or name.startswith('_'):
            raise RefusedPickleError(f'getattr(..., {name!r})')
        return getattr(HistoryBuffer, name)


def _plain(dtype):
    """Return a dtype of numbers or text; objects could be anything."""
    dtype = np.dtype(dtype)
    if dtype.kind not in _PLAIN_KINDS:
        raise RefusedPickleError(f'an array of {dtype}')
    return dtype


@lru_cache
def _array_names():
    makers = _Makers()
    names = {
        'numpy.ndarray': np.ndarray,
        'numpy.dtype': np.dtype,
        'collections.OrderedDict': OrderedDict,
        '_codecs.encode': makers.encode,
        **{f'{module}.bytes': makers.no_bytes for module in _BUILTINS},
    }
    for module in _ARRAY_MODULES:
        names[f'{module}._reconstruct'] = makers.reconstruct
        names[f'{module}.scalar'] = makers.scalar
    for module in _BUFFER_MODULES:
        names[f'{module}._frombuffer'] = makers.frombuffer
    return names


class ArrayUnpickler(pickle.Unpickler):
    """Unpickle containers, numbers, text and numpy arrays, nothing else.

    This is the form in which detectron2's model zoo publishes: a pickled
    dict of numpy arrays (``.pkl``).
    """

    def __init__(self, stream):
        super().__init__(stream, encoding=_ENCODING)

    def find_class(self, module, name):
        """Look up one of the few names that are allowed.

        Raises:
            RefusedPickleError: For any other; it is not imported.
        """
        full = f'{module}.{name}'
        if full not in _array_names():
            raise RefusedPickleError(full)
        return _array_names()[full]


@contextmanager
def training_names():
    """Let ``torch.load(weights_only=True)`` read what mmengine saves.

    Beside tensors, the checkpoints of a run hold log buffers and numbers of
    numpy. mmengine's own list has ``getattr``, with which a pickle gets at
    the globals of any function; here that name is the maker of one method.
    """
    makers = _Makers()
    codes = '?bBhHiIlLqQefdFDSU'
    allowed = [
        HistoryBuffer,
        np.ndarray,
        np.dtype,
        slice,
        *{type(np.dtype(code)) for code in codes},
    ]
    for module in _BUILTINS:
        allowed.append((makers.history_method, f'{module}.getattr'))
        allowed.append((makers.no_bytes, f'{module}.bytes'))
    for module in _ARRAY_MODULES:
        allowed.append((makers.reconstruct, f'{module}._reconstruct'))
        allowed.append((makers.scalar, f'{module}.scalar'))
    with torch.serialization.safe_globals(allowed):
        yield


def as_tensors(value):
    """Turn the arrays in nested containers into tensors.

    Args:
        value (Any): Dicts, lists and tuples of arrays and plain values.

    Returns:
        Any: The same with tensors that own their memory. Text stays.
    """
    if isinstance(value, dict):
        return type(value)((k, as_tensors(v)) for k, v in value.items())
    if isinstance(value, list):
        return [as_tensors(v) for v in value]
    if isinstance(value, tuple):
        return tuple(as_tensors(v) for v in value)
    if isinstance(value, np.ndarray) and value.dtype.kind not in 'SU':
        # torch has the byte order of the machine alone, and no strides < 0.
        native = value.dtype.newbyteorder('=')
        return torch.from_numpy(np.array(value, dtype=native, order='C'))
    return value


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
    :func:`~clouds_mmseg.weights.io.read_content`.

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
