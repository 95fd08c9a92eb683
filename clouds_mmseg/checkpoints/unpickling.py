"""Read pickles of weights without running what they may carry.

A pickle is a program: it names functions and calls them. Both readers here
know a short list of names that make arrays and plain values; a file that
names anything else is refused before the name is looked up.
"""

import pickle
from collections import OrderedDict
from contextlib import contextmanager
from functools import lru_cache

import numpy as np
import torch
from mmengine.logging.history_buffer import HistoryBuffer

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
