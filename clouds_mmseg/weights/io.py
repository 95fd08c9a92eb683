"""Reading and writing of weight files.

Pickles are read without executing code in them: the unpicklers below know a
closed list of names.
"""

import io
import json
import os
import pickle
import pickletools
import re
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from mmengine.logging.history_buffer import HistoryBuffer
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from clouds_mmseg.utils.atomic import atomic_path, rename, work_folder
from clouds_mmseg.utils.errors import UserError, disk_error
from clouds_mmseg.utils.image_set import sha256_of
from clouds_mmseg.utils.text_files import parse_json
from clouds_mmseg.version import __version__
from clouds_mmseg.weights.integrity import (
    HASH_BESIDE,
    HASH_KEY,
    WRAPPERS,
    BoundedReader,
    DamagedError,
    RefusedPickleError,
    check_archive,
    check_content,
    check_pickle,
    check_structure,
    content_sha256,
    is_zip,
)
from clouds_mmseg.weights.torchscript import script_weights

SUFFIXES = ('.pth', '.pt', '.safetensors')
# Prefixes that wrappers add to every key: data-parallel training,
# torch.compile, Lightning.
_PREFIXES = ('module.', '_orig_mod.', 'model.')
# Numbers that OpenAI's archives keep beside the weights.
_ARCHIVE_KEYS = ('input_resolution', 'context_length', 'vocab_size')
# Magic bytes of torch.save before it wrote zip archives.
_OLD_TORCH = b'\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.'
# JSON entries in the metadata of a safetensors file.
_JSON_METADATA = ('dataset_meta', 'source', 'meta')
# numpy renamed the module in version 2; files of both exist.
_ARRAY_MODULES = ('numpy.core.multiarray', 'numpy._core.multiarray')
_BUFFER_MODULES = ('numpy.core.numeric', 'numpy._core.numeric')
# Protocol 2 names the modules of Python 2.
_BUILTINS = ('builtins', '__builtin__')
# Kinds of dtypes without Python objects: numbers and text.
_DTYPE_KINDS = 'biufcSU'
# Detectron's files were written by Python 2.
_ENCODING = 'latin1'
# How Rust writes an error of the system.
_OS_ERROR = re.compile(r'\(os error (\d+)\)')


class WeightFileError(UserError, RuntimeError):
    """A file does not exist, or no weights can be read from it."""


class MissingWeightsError(WeightFileError):
    """Weights are not on this machine and cannot be fetched.

    The message names the files, the paths that were searched, and what to
    do; of published weights also where to find them.

    Attributes:
        fetchable: No download was attempted; a run would attempt one.
    """

    fetchable: bool = False


def read_state_dict(
    path: str | Path, *, trust: bool = False
) -> dict[str, torch.Tensor]:
    """Read the weights of one file, whichever format it has.

    Args:
        path: A file as :func:`read_content` reads it.
        trust: As for :func:`read_content`.

    Returns:
        Key -> value, on the CPU, dtypes as stored, without the prefixes
        ``module.``, ``model.`` and ``_orig_mod.`` of wrappers.

    Raises:
        WeightFileError: As :func:`read_content`, or it holds no tensors.
    """
    content = read_content(path, trust=trust)
    state_dict, _ = split_content(content, path)
    return state_dict


def read_content(
    path: str | Path,
    *,
    map_location: str | torch.device = 'cpu',
    trust: bool = False,
) -> dict:
    """Read one file as it was saved.

    Supported formats are ``.safetensors``, files of ``torch.save`` (weights
    and what mmengine saves with them), pickled numpy arrays as detectron2
    publishes them, and TorchScript archives, in which OpenAI published CLIP.
    No code in them is executed. The format is detected from the content,
    except for ``.safetensors``, which the suffix tells.

    Args:
        path: The file.
        map_location: Device of the tensors.
        trust: Let a pickle run code; for files that the user made.

    Returns:
        As saved; arrays become tensors. A safetensors file gives
        ``state_dict``, and its metadata as ``meta``.

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
        raise MissingWeightsError(f'Weights {path}: {kind}.')
    head = _check_head(path)
    if path.suffix == '.safetensors':
        content = _read_safetensors(path, map_location)
    else:
        archive = is_zip(path)
        if archive and _is_script(_members(path)):
            return _read_torchscript(path)
        content = _read_pickle(path, head, map_location, trust, archive)
    if not isinstance(content, dict):
        raise WeightFileError(
            f'{path} holds a {type(content).__name__}, not a state dict. '
            'Save model.state_dict() instead.'
        )
    try:
        check_content(content)
    except DamagedError as error:
        raise WeightFileError(
            f'{path}: {error}. It is damaged: download it again. If it was '
            f'changed on purpose, remove {HASH_KEY!r} from its meta.'
        ) from error
    return content


def split_content(content: dict, path: str | Path) -> tuple[dict, dict]:
    """Split a checkpoint into the weights and everything else.

    Args:
        content: Of :func:`read_content`.
        path: Where it came from, for the message.

    Returns:
        The weights, found under ``state_dict``, ``model_state_dict``,
        ``model`` or at the top, without the prefixes of wrappers; and the
        rest.

    Raises:
        WeightFileError: There are no weights, or a value among them is not a
            tensor.
    """
    for wrapper in WRAPPERS:
        if isinstance(content.get(wrapper), dict):
            weights = dict(content[wrapper])
            rest = {k: v for k, v in content.items() if k != wrapper}
            break
    else:
        weights, rest = dict(content), {}
    non_tensors = {
        k: type(v).__name__
        for k, v in weights.items()
        if not (isinstance(v, torch.Tensor) and isinstance(k, str))
    }
    if non_tensors or not weights:
        found = ', '.join(
            f'{k} ({t})' for k, t in list(non_tensors.items())[:5]
        )
        raise WeightFileError(
            f'{path} holds no state dict (name -> tensor); found '
            f'{found or "nothing"}. Save model.state_dict() instead.'
        )
    return strip_prefixes(weights), rest


def count_tensors(value: Any) -> int:
    """Count the tensors in nested dicts, lists and tuples."""
    if isinstance(value, torch.Tensor):
        return 1
    if isinstance(value, dict):
        return sum(count_tensors(v) for v in value.values())
    if isinstance(value, (list, tuple)):
        return sum(count_tensors(v) for v in value)
    return 0


def strip_prefixes(weights: dict[str, Any]) -> dict[str, Any]:
    """Remove the prefixes of module wrappers that every key has."""
    for prefix in _PREFIXES:
        if weights and all(key.startswith(prefix) for key in weights):
            return strip_prefixes(
                {key.removeprefix(prefix): v for key, v in weights.items()}
            )
    return weights


def _check_head(path):
    """Reject web pages and LFS pointers saved as weights; return the head."""
    with open(path, 'rb') as stream:
        head = stream.read(512)
    text = head.lstrip().lower()
    if not text:
        raise WeightFileError(f'{path} is empty; download it again.')
    if text.startswith((b'<!doctype', b'<html', b'<?xml')):
        raise WeightFileError(
            f'{path} is a web page, not weights: the address asked for a '
            'login or does not exist any more. Download the file itself.'
        )
    if text.startswith(b'version https://git-lfs'):
        raise WeightFileError(
            f'{path} is a Git LFS pointer, not weights; run `git lfs pull` '
            'where it comes from.'
        )
    return head


def read_metadata(path: str | Path) -> dict:
    """Read the metadata of a safetensors file, and not its weights.

    Returns:
        ``meta`` as :func:`read_content` returns it.

    Raises:
        WeightFileError: It is no safetensors file.
    """
    with _open_safetensors(Path(path), 'cpu') as file:
        meta = _meta_of(file.metadata() or {})
    meta.pop(HASH_BESIDE, None)
    return meta


@contextmanager
def _open_safetensors(path, device):
    try:
        with safe_open(path, 'pt', device=device) as file:
            yield file
    except (SafetensorError, MemoryError, OverflowError) as error:
        raise WeightFileError(
            f'{path} is not a whole safetensors file ({error}); it is '
            'truncated or of another format. Download it again.'
        ) from error


def _read_safetensors(path, map_location):
    known = isinstance(map_location, (str, torch.device))
    device = str(map_location) if known else 'cpu'
    with _open_safetensors(path, device) as file:
        meta = _meta_of(file.metadata() or {})
        weights = {key: file.get_tensor(key) for key in file.keys()}
    content = dict(state_dict=weights, meta=meta)
    if HASH_BESIDE in meta:
        content[HASH_BESIDE] = meta.pop(HASH_BESIDE)
    return content


def _meta_of(metadata):
    meta = {k: v for k, v in metadata.items() if k != 'format'}
    for key in _JSON_METADATA:
        try:
            meta[key] = parse_json(meta[key])
        except (KeyError, ValueError):
            # Absent, or another program's text under the same name.
            continue
    if isinstance(meta.get('meta'), dict):
        meta = {**meta.pop('meta'), **meta}
    return meta


def is_torchscript(path: Path) -> bool:
    """Tell a TorchScript archive from a file of torch.save; both are zips.

    Raises:
        WeightFileError: The file is a damaged zip.
    """
    return is_zip(path) and _is_script(_members(path))


def _is_script(names):
    return any(name.endswith('/constants.pkl') for name in names)


def _members(path):
    """Return the names of a zip's members, whose checksums are verified."""
    try:
        return check_archive(path)
    except DamagedError as error:
        raise _damaged(path, error) from error


def _read_torchscript(path):
    try:
        state_dict = script_weights(path)
    except RefusedPickleError as error:
        raise WeightFileError(
            f'{path} is a TorchScript archive that only its own code can '
            f'restore, which is not run ({error}). If you made the file '
            'yourself, save the state_dict() of torch.jit.load(FILE) instead.'
        ) from error
    except Exception as error:
        # Garbage makes the unpickler fail in any way.
        raise _damaged(path, error) from error
    for number in _ARCHIVE_KEYS:
        state_dict.pop(number, None)
    return dict(state_dict=state_dict)


def _read_pickle(path, head, map_location, trust, archive):
    if not archive and head[:1].decode('latin1') not in pickletools.code2op:
        raise _damaged(path, 'it is neither an archive nor a pickle')
    bare_pickle = head.startswith(b'\x80') and not head.startswith(_OLD_TORCH)
    try:
        if not trust:
            _check_pickles(path, archive, head)
        if bare_pickle or (path.suffix == '.pkl' and not archive):
            return _read_arrays(path, trust)
        with safe_training_globals(), BoundedReader(path) as stream:
            content = torch.load(
                stream, map_location=map_location, weights_only=not trust
            )
        if not trust:
            check_structure(content, path.stat().st_size)
        return content
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
            'small for it. Download it again.'
        ) from error
    except Exception as error:
        # Garbage makes the unpickler fail in any way: KeyError, EOFError, ...
        raise _damaged(path, error) from error


def _read_arrays(path, trust):
    with BoundedReader(path) as stream:
        if trust:
            return as_tensors(pickle.load(stream, encoding='latin1'))
        content = ArrayUnpickler(stream).load()
        check_structure(content, path.stat().st_size)
        return as_tensors(content)


def _check_pickles(path, archive, head):
    if archive:
        # By torch's own reader: two readers of a zip may find other bytes.
        reader = torch._C.PyTorchFileReader(str(path))
        check_pickle(io.BytesIO(reader.get_record('data.pkl')))
        return
    with BoundedReader(path) as stream:
        # Old files of torch.save: magic number, version, system, content and
        # keys of the storages, which follow.
        for _ in range(5 if head.startswith(_OLD_TORCH) else 1):
            check_pickle(stream)


def _refused(path, what):
    return WeightFileError(
        f'{path} is a pickle that needs code to be run to read it, which is '
        f'refused ({what}). If you made the file yourself, write its weights '
        f'anew: clouds publish {path} OUT.safetensors --trust. '
        'A damaged file can look like this, too: download it again.'
    )


def _damaged(path, error):
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
    # torch's message continues with possible reasons.
    reason = reason.split('. ')[0]
    if not any(letter.isalpha() for letter in reason):
        # Of a KeyError the key alone.
        reason = f'{type(error).__name__} {reason}'
    return WeightFileError(
        f'{path} ({path.stat().st_size} bytes) cannot be read as weights '
        f'({reason}); it is truncated, damaged or of another format. Fetch '
        'it again.'
    )


def check_suffix(path: str | Path, *, pickled: bool = False) -> Path:
    """Check that weights can be written under a file name.

    Args:
        path: The file to write.
        pickled: Whether ``.pkl`` is allowed as well.

    Returns:
        The path, with ``~`` expanded.

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


def write_weights(
    path: str | Path,
    weights: Mapping[str, torch.Tensor],
    meta: Mapping | None = None,
    *,
    wrapper: str = 'state_dict',
) -> str:
    """Write weights atomically, with the hash of their content.

    :func:`read_content` verifies the hash.

    Args:
        path: ``.pth`` or ``.pt`` for torch, ``.safetensors`` for
            safetensors, ``.pkl`` for detectron2's pickle of arrays.
        weights: Keys -> values; on any device.
        meta: Metadata: ``cfg`` (the text of a config), ``dataset_meta``
            (``classes``, ``palette``), ``source``, and JSON values.
        wrapper: Key of the weights in a torch file.

    Returns:
        sha256 of the file, 64 hexadecimal digits.

    Raises:
        UserError: Another suffix, or the file cannot be written.
    """
    path = check_suffix(path, pickled=True)
    weights = _own_storages(weights)
    meta = to_json_value(dict(meta or {}, clouds_mmseg_version=__version__))
    meta[HASH_KEY] = content_sha256(weights, meta)
    try:
        with atomic_path(path) as temporary:
            if path.suffix == '.safetensors':
                _save_safetensors(path, temporary, weights, meta)
            elif path.suffix == '.pkl':
                arrays = {key: value.numpy() for key, value in weights.items()}
                content = {wrapper: arrays, '__author__': 'clouds_mmseg'}
                # Under two keys: damage to one does not disable the check.
                content |= {'meta': meta, HASH_BESIDE: meta[HASH_KEY]}
                temporary.write_bytes(pickle.dumps(content))
            else:
                _torch_save(temporary, {'meta': meta, wrapper: weights})
            return sha256_of(temporary)
    except OSError as error:
        raise UserError(
            f'{path} cannot be written: {disk_error(error)}'
        ) from error


class _Stream:
    """A file for torch, which tells of a full disk by an error of its own.

    The weights are not kept twice, as they would be in a buffer.

    Attributes:
        error: Of the disk, after which nothing is written any more.
    """

    def __init__(self, file):
        self._file = file
        self.error: OSError | None = None

    def write(self, data):
        if self.error is None:
            try:
                self._file.write(data)
            except OSError as error:
                self.error = error
        return len(data)

    def flush(self):
        """Do nothing: the file is closed when all is written."""


def _torch_save(path, content):
    """Write a file of torch.

    Raises:
        OSError: Of the disk.
    """
    with open(path, 'wb') as file:
        stream = _Stream(file)
        torch.save(content, stream)
        if stream.error is not None:
            raise stream.error


def _save_safetensors(path, temporary, weights, meta):
    """Write a safetensors file.

    Raises:
        OSError: Of the disk.
    """
    # safetensors makes a temporary file of its own beside the one to write,
    # which stays if the process is killed.
    with work_folder(path) as folder:
        written = folder / path.name
        try:
            save_file(weights, written, metadata=as_metadata(meta))
        except SafetensorError as error:
            found = _OS_ERROR.search(str(error))
            if found is None:
                raise
            code = int(found.group(1))
            raise OSError(code, os.strerror(code), str(path)) from error
        _sort_metadata(written)
        rename(written, temporary)


def _sort_metadata(path):
    """Sort the metadata in the header of a safetensors file.

    The library writes them in another order each time, so that the hash of
    a file would change with it.
    """
    with open(path, 'r+b') as stream:
        size = int.from_bytes(stream.read(8), 'little')
        header = json.loads(stream.read(size))
        header['__metadata__'] = dict(sorted(header['__metadata__'].items()))
        text = json.dumps(header, separators=(',', ':'), ensure_ascii=False)
        payload = text.encode().ljust(size)
        assert len(payload) == size, 'the tensors begin behind the header'
        stream.seek(8)
        stream.write(payload)


def as_metadata(meta: Mapping) -> dict[str, str]:
    """Encode metadata as text, the only type that safetensors stores.

    Args:
        meta: As for :func:`write_weights`.

    Returns:
        ``cfg``, ``content_sha256`` and ``clouds_mmseg_version`` unchanged;
        ``dataset_meta``, ``source`` and, with all other entries, ``meta`` as
        JSON.
    """
    meta = dict(meta)
    metadata = dict(
        format='pt', clouds_mmseg_version=meta.pop('clouds_mmseg_version')
    )
    if meta.get(HASH_KEY):
        # Under two keys: damage to one does not disable the check.
        metadata[HASH_BESIDE] = metadata[HASH_KEY] = meta.pop(HASH_KEY)
    if meta.get('cfg'):
        metadata['cfg'] = str(meta.pop('cfg'))
    for key in ('dataset_meta', 'source'):
        if meta.get(key):
            metadata[key] = json.dumps(meta.pop(key))
    if meta:
        metadata['meta'] = json.dumps(meta)
    return metadata


def to_json_value(value: Any) -> Any:
    """Convert nested containers, numpy values and tensors to JSON values.

    Returns:
        Dicts with text as keys, lists, numbers, text; the ``str`` of any
        other object.
    """
    if isinstance(value, dict):
        return {str(k): to_json_value(v) for k, v in value.items()}
    if isinstance(value, (list, tuple, set)):
        return [to_json_value(v) for v in value]
    if hasattr(value, 'tolist'):
        return to_json_value(value.tolist())
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    return str(value)


def _own_storages(weights):
    """Give each tensor a storage of its own, on the CPU.

    torch.save would write the whole storage of a view, and safetensors
    refuses tensors that share one.
    """
    result, seen = {}, set()
    for key, value in weights.items():
        value = value.detach().cpu().contiguous()
        storage = value.untyped_storage()
        if storage.nbytes() != value.nbytes or storage.data_ptr() in seen:
            value = value.clone()
        seen.add(value.untyped_storage().data_ptr())
        result[key] = value
    return result


class _SafeConstructors:
    """Constructors of arrays that pickles may call, with checked arguments.

    A pickle receives their bound methods, which unlike functions have no
    attributes that it could set.
    """

    def reconstruct(self, subtype, shape, typecode):
        if subtype is not _ArrayType:
            raise RefusedPickleError(getattr(subtype, '__name__', '?'))
        return np.ndarray.__new__(np.ndarray, shape, _checked_dtype(typecode))

    def scalar(self, dtype, data):
        return np.frombuffer(data, _checked_dtype(dtype), count=1)[0]

    def frombuffer(self, data, dtype, shape, order, axes=None):
        array = np.frombuffer(data, _checked_dtype(dtype))
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


class _ArrayType:
    """Stands for ``numpy.ndarray``, which pickles name but never call.

    Called with strides of 0, it makes an array of any size from 4 bytes.
    """

    def __new__(cls, *args: Any, **kwargs: Any) -> '_ArrayType':
        raise RefusedPickleError('a call of numpy.ndarray')


def _checked_dtype(dtype):
    """Return a dtype of numbers or text; refuse one of Python objects."""
    dtype = np.dtype(dtype)
    if dtype.kind not in _DTYPE_KINDS:
        raise RefusedPickleError(f'an array of {dtype}')
    return dtype


@lru_cache
def _array_globals():
    """Return the globals that a pickle of numpy arrays may use."""
    constructors = _SafeConstructors()
    names = {
        'numpy.ndarray': _ArrayType,
        'numpy.dtype': np.dtype,
        'collections.OrderedDict': OrderedDict,
        '_codecs.encode': constructors.encode,
        **{f'{module}.bytes': constructors.no_bytes for module in _BUILTINS},
    }
    for module in _ARRAY_MODULES:
        names[f'{module}._reconstruct'] = constructors.reconstruct
        names[f'{module}.scalar'] = constructors.scalar
    for module in _BUFFER_MODULES:
        names[f'{module}._frombuffer'] = constructors.frombuffer
    return names


class ArrayUnpickler(pickle.Unpickler):
    """Unpickle containers, numbers, text and numpy arrays, nothing else.

    This is the form in which detectron2's model zoo publishes: a pickled
    dict of numpy arrays (``.pkl``).
    """

    def __init__(self, stream: BinaryIO):
        super().__init__(stream, encoding=_ENCODING)

    def find_class(self, module: str, name: str) -> Any:
        """Return an allowed global.

        Raises:
            RefusedPickleError: For any other; it is not imported.
        """
        full = f'{module}.{name}'
        if full not in _array_globals():
            raise RefusedPickleError(full)
        return _array_globals()[full]


@contextmanager
def safe_training_globals() -> Iterator[None]:
    """Let ``torch.load(weights_only=True)`` read what mmengine saves.

    Beside tensors, the checkpoints of a run contain log buffers and numpy
    numbers. mmengine's own list has ``getattr``, with which a pickle reaches
    the globals of any function; here that name only returns methods of the
    log buffer.
    """
    constructors = _SafeConstructors()
    codes = '?bBhHiIlLqQefdFDSU'
    allowed: list[Any] = [
        HistoryBuffer,
        (_ArrayType, 'numpy.ndarray'),
        # Whose state may be set. No pickle can name what has no dot.
        (np.ndarray, 'ndarray'),
        np.dtype,
        slice,
        *{type(np.dtype(code)) for code in codes},
    ]
    for module in _BUILTINS:
        allowed.append((constructors.history_method, f'{module}.getattr'))
        allowed.append((constructors.no_bytes, f'{module}.bytes'))
    for module in _ARRAY_MODULES:
        allowed.append((constructors.reconstruct, f'{module}._reconstruct'))
        allowed.append((constructors.scalar, f'{module}.scalar'))
    with torch.serialization.safe_globals(allowed):
        yield


def as_tensors(value: Any) -> Any:
    """Convert the arrays in nested dicts, lists and tuples to tensors.

    The tensors own their memory; arrays of text stay arrays.
    """
    if isinstance(value, dict):
        return type(value)((k, as_tensors(v)) for k, v in value.items())
    if isinstance(value, list):
        return [as_tensors(v) for v in value]
    if isinstance(value, tuple):
        return tuple(as_tensors(v) for v in value)
    if isinstance(value, np.ndarray) and value.dtype.kind not in 'SU':
        # torch supports neither foreign byte order nor negative strides.
        native = value.dtype.newbyteorder('=')
        return torch.from_numpy(np.array(value, dtype=native, order='C'))
    return value
