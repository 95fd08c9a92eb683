"""Weights of TorchScript archives, read without running them.

``torch.jit.load`` compiles the code in an archive and runs the
``__setstate__`` of its classes, which may write files. Only the pickle of
its objects is read here, with stand-ins for the classes.
"""

import io
import math
import pickle
import re
import zipfile
from pathlib import Path, PurePosixPath
from typing import Any

import torch

from clouds_mmseg.weights.integrity import (
    RefusedPickleError,
    check_pickle,
    check_structure,
)

# The module that TorchScript puts its classes into.
_CLASSES = '__torch__'
_DTYPES = {
    'FloatStorage': torch.float32,
    'DoubleStorage': torch.float64,
    'HalfStorage': torch.float16,
    'BFloat16Storage': torch.bfloat16,
    'LongStorage': torch.int64,
    'IntStorage': torch.int32,
    'ShortStorage': torch.int16,
    'CharStorage': torch.int8,
    'ByteStorage': torch.uint8,
    'BoolStorage': torch.bool,
}
# Lists with types, whose types are of no use here.
_LISTS = ('build_intlist', 'build_tensorlist', 'build_doublelist')
_LISTS += ('build_boollist', 'restore_type_tag')


def script_weights(path: Path) -> dict[str, torch.Tensor]:
    """Read the parameters and buffers of a TorchScript archive.

    Args:
        path: The archive, as ``torch.jit.save`` wrote it.

    Returns:
        As ``state_dict()`` of the module in it.

    Raises:
        RefusedPickleError: Its objects cannot be restored without running
            code.
        Exception: Of any kind, if it is damaged.
    """
    with zipfile.ZipFile(path) as archive:
        names = set(archive.namelist())
        (prefix,) = {n.removesuffix('data.pkl') for n in names if _is_root(n)}
        if f'{prefix}byteorder' in names:
            order = archive.read(f'{prefix}byteorder')
            if order != b'little':
                raise ValueError(f'its byte order is {order!r}')
        payload = archive.read(f'{prefix}data.pkl')
        check_pickle(io.BytesIO(payload))
        unpickler = _Unpickler(io.BytesIO(payload), archive, prefix)
        root = unpickler.load()
        check_structure(root, path.stat().st_size)
        if not isinstance(root, _Module):
            raise ValueError(f'it holds a {type(root).__name__}, no module')
        weights: dict[str, torch.Tensor] = {}
        _collect(root, '', archive, prefix, weights)
    return weights


def _is_root(name):
    path = PurePosixPath(name)
    return path.name == 'data.pkl' and len(path.parts) == 2


class _Module(dict):
    """Attributes of a module; subclasses stand for its classes."""

    source = ''

    def __setstate__(self, state: Any) -> None:
        if not isinstance(state, dict):
            raise RefusedPickleError(f'{self.source}.__setstate__')
        self.update(state)


class _Unpickler(pickle.Unpickler):
    """Unpickle modules, tensors and plain values, nothing else."""

    def __init__(self, stream, archive, prefix):
        super().__init__(stream)
        self._archive, self._prefix = archive, prefix
        self._storages = {}
        self._modules = {}

    def find_class(self, module: str, name: str) -> Any:
        """Return a stand-in.

        Raises:
            RefusedPickleError: There is none; nothing is imported.
        """
        full = f'{module}.{name}'
        if module.split('.')[0] == _CLASSES:
            if full not in self._modules:
                kind = type('_Module', (_Module,), dict(source=full))
                self._modules[full] = kind
            return self._modules[full]
        if module == 'torch' and name in _DTYPES:
            return _DTYPES[name]
        if full == 'torch._utils._rebuild_tensor_v2':
            return self._tensor
        if full == 'collections.OrderedDict':
            # Of the hooks of a tensor, which are none.
            return self._empty
        if module == 'torch.jit._pickle' and name in _LISTS:
            return self._plain
        raise RefusedPickleError(full)

    def persistent_load(self, pid: Any) -> torch.Tensor:
        """Return a storage as a tensor with one dimension."""
        _, dtype, key, _, count = pid
        if key not in self._storages:
            data = bytearray(self._archive.read(f'{self._prefix}data/{key}'))
            self._storages[key] = (
                torch.frombuffer(data, dtype=dtype)
                if data
                else torch.empty(0, dtype=dtype)
            )
        storage = self._storages[key]
        if storage.dtype != dtype or len(storage) < count:
            raise ValueError(f'its storage {key} has not {count} {dtype}')
        return storage

    def _tensor(self, storage, offset, size, stride, *rest):
        if math.prod(size) > len(storage):
            raise ValueError(f'a tensor of {size} is larger than its storage')
        return torch.as_strided(storage, size, stride, offset).clone()

    def _empty(self):
        return {}

    def _plain(self, values, *rest):
        return values


def _collect(module, name, archive, prefix, weights):
    """Add the registered tensors of a module and of those in it."""
    registered = _registered(module.source, archive, prefix)
    for key, value in module.items():
        if isinstance(value, _Module):
            _collect(value, f'{name}{key}.', archive, prefix, weights)
        elif isinstance(value, torch.Tensor) and key in registered:
            weights[f'{name}{key}'] = value


def _registered(source, archive, prefix):
    """Return the names of a class's parameters and buffers.

    They stand at the beginning of the class in the code of the archive.
    """
    module, _, name = source.rpartition('.')
    file = f'{prefix}code/{module.replace(".", "/")}.py'
    code = archive.read(file).decode()
    head = re.search(
        rf'^class {re.escape(name)}\(Module\):\n((?:  __\w+__ = .*\n)*)',
        code,
        re.MULTILINE,
    )
    if head is None:
        raise ValueError(f'{file} has no class {name}')
    return set(re.findall(r'"([^"]*)"', head[1]))
