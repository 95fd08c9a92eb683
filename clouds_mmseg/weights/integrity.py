"""Checks of weight files: checksums, and what a file claims to hold.

A file of a few bytes can claim terabytes, or nest and share its objects so
that walking through them never ends. Such claims are compared with the size
of the file.
"""

import hashlib
import io
import json
import os
import pickle
import pickletools
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch

# Key of the content hash in `meta`.
HASH_KEY = 'content_sha256'
# Key of its copy beside `meta`, in a pickle of arrays.
HASH_BESIDE = '__content_sha256__'
# Keys under which training scripts store the weights, in order of trial.
WRAPPERS = ('state_dict', 'model_state_dict', 'model')
# torch.save compresses nothing; people zip again, by a factor of two or so.
_MOST_TIMES = 20
# Beyond the size of its file, what a tensor or an archive may hold: an
# expanded tensor is stored as a single number.
_MOST_BEYOND = 1 << 26
# Levels and objects of a content, each object counted wherever it occurs.
_DEEPEST = 200
_MOST_OBJECTS = 10_000_000
# The same of tuples, whose hashes are computed anew each time.
_MOST_IN_TUPLE = 1_000_000


class DamagedError(Exception):
    """The bytes of a file contradict the checksums or the sizes in it."""


class RefusedPickleError(pickle.UnpicklingError):
    """A pickle refers to a global that weights do not need.

    Attributes:
        name: The global, ``module.function``.
    """

    def __init__(self, name: str):
        super().__init__(f'the pickle names {name}')
        self.name = name


def content_sha256(weights: Mapping[str, torch.Tensor], meta: Mapping) -> str:
    """Hash the content of a weight file, independently of its format.

    A file cannot contain the hash of its own bytes. This one covers what is
    read from it: names, dtypes, shapes and values of the tensors, sorted by
    name, and the metadata.

    Args:
        weights: Keys -> values, on any device.
        meta: JSON values; ``content_sha256`` itself is left out.

    Returns:
        64 hexadecimal digits.
    """
    sha256 = hashlib.sha256()
    for key in sorted(weights):
        value = weights[key].detach().cpu().contiguous()
        head = [key, str(value.dtype), list(value.shape)]
        sha256.update(json.dumps(head).encode())
        if value.numel():
            sha256.update(value.reshape(-1).view(torch.uint8).numpy().data)
    rest = {key: value for key, value in meta.items() if key != HASH_KEY}
    sha256.update(json.dumps(rest, sort_keys=True).encode())
    return sha256.hexdigest()


def check_content(content: dict) -> None:
    """Compare the content of a file with the hash stored in it.

    Args:
        content: Weights under one of ``WRAPPERS``, and ``meta``. Without a
            hash nothing is compared; the one beside ``meta`` is removed.

    Raises:
        DamagedError: They differ.
    """
    stated = content.pop(HASH_BESIDE, None)
    meta = content.get('meta')
    expected = meta.get(HASH_KEY, stated) if isinstance(meta, dict) else stated
    if expected is None:
        return
    weights: Any = next(
        (content[key] for key in WRAPPERS if key in content), None
    )
    try:
        found = content_sha256(weights, meta or {})
    except (AttributeError, TypeError, ValueError, RuntimeError) as error:
        raise DamagedError('its content cannot be hashed') from error
    if found != expected:
        raise DamagedError(
            f'its content has the SHA-256 {found[:12]}..., it was written '
            f'with {str(expected)[:12]}...'
        )


def is_zip(path: str | Path) -> bool:
    """Tell zip archives, damaged ones too."""
    try:
        return zipfile.is_zipfile(path)
    except zipfile.BadZipFile:
        return True


def check_archive(path: Path) -> list[str]:
    """Compare each member of a zip archive with its CRC-32.

    torch does not: a flipped bit in a weight would go unnoticed.

    Args:
        path: A file for which :func:`is_zip` holds.

    Returns:
        The names of the members.

    Raises:
        DamagedError: A checksum or the directory is wrong, or the members
            are much larger than the file.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            _check_claim(
                sum(info.file_size for info in archive.infolist()),
                _MOST_TIMES * path.stat().st_size,
                'its members claim',
            )
            # torch.serialization.set_crc32_options(False) leaves them out.
            unchecked = not any(info.CRC for info in archive.infolist())
            wrong = None if unchecked else archive.testzip()
    except DamagedError:
        raise
    except Exception as error:
        # Garbage in a header: BadZipFile, NotImplementedError (the
        # compression method), UnicodeDecodeError (a name), EOFError, ...
        raise DamagedError(_first_line(error)) from error
    if wrong is not None:
        raise DamagedError(f'wrong CRC-32 of its member {wrong}')
    if len(set(names)) < len(names):
        raise DamagedError('two of its members have one name')
    return names


def check_structure(content: Any, size: int) -> None:
    """Check that a content can be walked through, and its tensors copied.

    A pickle may hold itself, hold one list a million times at the price of a
    byte each, or have a tensor that repeats a single number without end.

    Args:
        content: Nested dicts, lists, tuples and sets.
        size: Bytes of its file.

    Raises:
        DamagedError: It holds itself, is nested too deeply, or holds more
            than its file can.
    """
    # id of a container -> objects in it and levels below it.
    known: dict[int, tuple[int, int] | None] = {}

    def measure(value, depth):
        if isinstance(value, (torch.Tensor, np.ndarray)):
            _check_claim(value.nbytes, size, 'a tensor in it claims')
            return 1, 0
        if isinstance(value, dict):
            parts = [*value.keys(), *value.values()]
        elif isinstance(value, (list, tuple, set, frozenset)):
            parts = list(value)
        else:
            return 1, 0
        if id(value) not in known:
            known[id(value)] = None
            found = [
                measure(part, depth + 1) if depth < _DEEPEST else (1, _DEEPEST)
                for part in parts
            ]
            total = 1 + sum(count for count, _ in found)
            levels = 1 + max((below for _, below in found), default=0)
            if total > _MOST_OBJECTS or levels > _DEEPEST:
                raise DamagedError(
                    f'its objects are nested more than {_DEEPEST} levels or '
                    f'{_MOST_OBJECTS:,} times'
                )
            known[id(value)] = total, levels
        result = known[id(value)]
        if result is None:
            raise DamagedError('an object in it contains itself')
        return result

    measure(content, 0)


def check_pickle(stream: BinaryIO) -> None:
    """Refuse what takes Python hours or all memory before it is read.

    A tuple of two equal tuples of two equal tuples ... has 2**n elements in
    n bytes, and Python hashes each of them when it is the key of a dict. The
    operations are followed here and not executed.

    Args:
        stream: At the beginning of a pickle; read to its end.

    Raises:
        DamagedError: A tuple is too deep or too large, or an object has an
            impossible number.
    """
    # Of each object on the stack: elements and levels of a tuple, 0 and 0 of
    # other objects; None is a mark.
    stack: list[tuple[int, int] | None] = []
    memo: dict[int, tuple[int, int] | None] = {}
    counts = dict(TUPLE1=1, TUPLE2=2, TUPLE3=3, EMPTY_TUPLE=0)
    try:
        for opcode, argument, position in pickletools.genops(stream):
            name, number = opcode.name, str(argument)
            puts = name in ('PUT', 'BINPUT', 'LONG_BINPUT')
            if puts and int(number) > (position or 0):
                # Python makes room for all numbers below it.
                raise DamagedError(f'it numbers an object {number}')
            if name == 'MARK':
                stack.append(None)
            elif name == 'TUPLE' or name in counts:
                if name == 'TUPLE':
                    parts = _pop_to_mark(stack)
                else:
                    parts = [stack.pop() for _ in range(counts[name])]
                found = [part or (0, 0) for part in parts]
                count = len(found) + sum(count for count, _ in found)
                levels = 1 + max((below for _, below in found), default=0)
                if levels > _DEEPEST or count > _MOST_IN_TUPLE:
                    raise DamagedError(
                        f'a tuple in it has more than {_DEEPEST} levels or '
                        f'{_MOST_IN_TUPLE:,} elements'
                    )
                stack.append((count, levels))
            elif puts:
                memo[int(number)] = stack[-1]
            elif name == 'MEMOIZE':
                memo[len(memo)] = stack[-1]
            elif name in ('GET', 'BINGET', 'LONG_BINGET'):
                stack.append(memo.get(int(number), (0, 0)))
            elif name == 'DUP':
                stack.append(stack[-1])
            else:
                _skip(opcode, stack)
    except DamagedError:
        raise
    except Exception as error:
        if 'remain' in str(error):
            # A length beyond the end, for which Python would make room.
            raise DamagedError(str(error)) from error
        # What follows is no pickle: unpickling stops there, too, and says
        # so.
        return


def _pop_to_mark(stack):
    parts = []
    while (part := stack.pop()) is not None:
        parts.append(part)
    return parts


def _skip(opcode, stack):
    """Take from the stack what an operation takes, and put what it puts."""
    before = opcode.stack_before
    if pickletools.markobject in before:
        _pop_to_mark(stack)
        before = before[: before.index(pickletools.markobject)]
    for _ in before:
        stack.pop()
    stack.extend((0, 0) for _ in opcode.stack_after)


def _check_claim(claimed, size, what):
    """Compare a size that is stated in a file with the size of the file."""
    if claimed > size + _MOST_BEYOND:
        raise DamagedError(
            f'{what} {claimed:,} bytes, more than the file can hold'
        )


class BoundedReader(io.BufferedReader):
    """Reader that never requests more bytes than the file has.

    A damaged length field of a pickle requests terabytes, and Python
    allocates them before it reads.
    """

    def __init__(self, path: Path):
        super().__init__(io.FileIO(path))
        self._length = os.path.getsize(path)

    def read(self, size: int | None = -1, /) -> bytes:
        """Read at most as many bytes as the file has."""
        if size is not None:
            size = min(size, self._length)
        return super().read(size)


def _first_line(error):
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
