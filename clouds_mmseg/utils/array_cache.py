"""Cache of arrays in a folder or an object store that processes share."""

import hashlib
import io
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from mmengine import fileio
from mmengine.logging import print_log

from clouds_mmseg.utils.atomic import atomic_path, remove_abandoned
from clouds_mmseg.utils.errors import UserError
from clouds_mmseg.utils.remote import (
    SCHEMES,
    RemoteError,
    file_size,
    is_address,
    list_below,
)

_SUFFIX = '.arr'
_DIGEST_BYTES = 16
# The size is measured each time 2 % of the bound were written. That of a
# folder is then reduced to 80 %: processes do not communicate, and up to ten
# of them stay below the bound together.
_MEASURE_EVERY = 0.02
_FILL = 0.8
# A temporary file this old was left behind by a process that was killed.
_STALE_SECONDS = 3600
# A store that failed is left alone for a minute, or ten times as long as it
# took to fail: one that hangs must not hold up a training.
_PAUSE_SECONDS = 60
_PAUSE_FACTOR = 10

_Warn = Callable[[str, str], None]


class ArrayCache:
    """Cache of arrays on disk or in a store, shared by processes.

    Errors never change a result: an entry that is missing, truncated or
    altered counts as absent, and an array that cannot be written (a full
    disk, a store that does not answer) is reported once and not stored.

    When a folder has reached its bound, the entries that were not used for
    longest make room. From a store nothing is deleted, as stores have rules
    of their own for that; what is new is not kept. Each process knows of a
    store what was there when it began and what it has written itself.

    Args:
        folder: Folder of the files, created if needed, or its address, such
            as ``s3://bucket/cache``. It may hold the entries of several
            producers, distinguished by key.
        max_bytes: Bound on the sum of the file sizes.

    Raises:
        UserError: If ``folder`` is a file or cannot be created, the store
            cannot be read or is of an unknown kind, or the bound is not
            positive.
    """

    def __init__(self, folder: str | Path, max_bytes: int):
        if max_bytes <= 0:
            raise UserError(
                f'max_bytes of the cache {folder} must be positive, got '
                f'{max_bytes}. Leave the folder out for no cache.'
            )
        if '://' in str(folder) and not is_address(folder):
            raise UserError(
                f'The cache {folder}: a cache is a folder, or an address that '
                f'begins with one of {", ".join(SCHEMES)} and ://'
            )
        self.max_bytes = int(max_bytes)
        self._warned: set[str] = set()
        self._files: _Folder | _Store
        if is_address(folder):
            self._files = _Store(str(folder), max_bytes, self._warn_once)
        else:
            self._files = _Folder(folder, max_bytes, self._warn_once)

    @property
    def folder(self) -> Path | str:
        """The folder, or its address."""
        return self._files.root

    @staticmethod
    def name(key: str) -> str:
        """Return where in the folder the file of a key is.

        Args:
            key: Hexadecimal digits, at least three.

        Returns:
            A path in one of 256 subfolders, because some file systems get
            slow with tens of thousands of files in one folder.
        """
        return f'{key[:2]}/{key[2:]}{_SUFFIX}'

    def get(self, key: str) -> np.ndarray | None:
        """Read an array; in a folder this marks it as used.

        Args:
            key: See :meth:`name`.

        Returns:
            The array as stored, or None if it is absent or damaged; a damaged
            file is removed.
        """
        name = self.name(key)
        try:
            content = self._files.read(name)
            if content is None:
                return None
            payload = content[_DIGEST_BYTES:]
            if content[:_DIGEST_BYTES] == _digest(payload):
                return np.load(io.BytesIO(payload), allow_pickle=False)
            print_log(
                f'{self.folder}/{name} is damaged; made again.',
                'current',
                logging.WARNING,
            )
            self._files.remove(name)
        except (OSError, RemoteError) as error:
            self._warn_once(
                'read',
                f'Cannot read from the cache {self.folder}; training goes on '
                f'without what cannot be read: {error}',
            )
        return None

    def put(self, key: str, array: np.ndarray) -> None:
        """Store an array; if that fails it is not stored.

        Args:
            key: See :meth:`name`.
            array: Any dtype but object.
        """
        stream = io.BytesIO()
        np.save(stream, array, allow_pickle=False)
        payload = stream.getvalue()
        size = len(payload) + _DIGEST_BYTES
        if size > self.capacity:
            self._warn_once(
                'size',
                f'The cache {self.folder} is bounded to {self.max_bytes:,} '
                f'bytes, too few for entries of {size:,}; they are not kept.',
            )
            return
        try:
            if self._files.make_room(size):
                self._files.write(self.name(key), _digest(payload) + payload)
        except (OSError, RemoteError) as error:
            self._warn_once(
                'write',
                f'Cannot write to the cache {self.folder}; training goes on '
                f'without what is not kept: {error}',
            )

    @property
    def capacity(self) -> int:
        """Bytes that stay when room is made: what is sure to be kept."""
        return int(self.max_bytes * self._files.fill)

    def size(self, key: str) -> int | None:
        """Return the bytes of an entry, or None if it is absent.

        Raises:
            RemoteError: The store cannot be read.
        """
        return self._files.size(self.name(key))

    def sizes(self) -> dict[str, int]:
        """Return the bytes of each file, by :meth:`name`.

        Raises:
            RemoteError: The store cannot be read.
        """
        return self._files.sizes()

    def used_bytes(self) -> int:
        """Return the sum of :meth:`sizes`."""
        return sum(self.sizes().values())

    def free_bytes(self) -> int | None:
        """Return the room on the disk; None for a store, which has no end."""
        return self._files.free_bytes()

    def _warn_once(self, topic, message):
        if topic not in self._warned:
            self._warned.add(topic)
            print_log(message, 'current', logging.WARNING)


class _Folder:
    """Files in a folder; those that were not used for longest make room."""

    fill = _FILL

    def __init__(self, root: str | Path, max_bytes: int, warn: _Warn):
        self.root = Path(root).expanduser()
        self._max_bytes = max_bytes
        self._warn = warn
        self._unmeasured: int | None = None
        try:
            self.root.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(
                f'Cannot make the cache folder {self.root}: '
                f'{error.strerror}. Name a folder that can be written.'
            ) from error

    def read(self, name: str) -> bytes | None:
        path = self.root / name
        try:
            content = path.read_bytes()
            os.utime(path)
        except FileNotFoundError:
            return None
        return content

    def write(self, name: str, content: bytes) -> None:
        with atomic_path(self.root / name) as temporary:
            temporary.write_bytes(content)

    def remove(self, name: str) -> None:
        (self.root / name).unlink(missing_ok=True)

    def size(self, name: str) -> int | None:
        try:
            return (self.root / name).stat().st_size
        except FileNotFoundError:
            return None

    def sizes(self) -> dict[str, int]:
        return {
            path.relative_to(self.root).as_posix(): size
            for _, size, path in self._entries()
        }

    def free_bytes(self) -> int:
        return shutil.disk_usage(self.root).free

    def make_room(self, size: int) -> bool:
        """Evict files so that ``size`` more bytes fit; measure at times."""
        if self._unmeasured is not None:
            self._unmeasured += size
            if self._unmeasured < self._max_bytes * _MEASURE_EVERY:
                return True
        self._unmeasured = size
        entries = sorted(self._entries())
        total = size + sum(bytes_ for _, bytes_, _ in entries)
        capacity = int(self._max_bytes * self.fill)
        if total <= capacity:
            return True
        self._warn(
            'full',
            f'The cache {self.root} has reached its bound of '
            f'{self._max_bytes:,} bytes: the entries that were not used for '
            'longest make room. If one epoch does not fit, most of it is '
            'computed again in each: raise the bound.',
        )
        for _, bytes_, path in entries:
            if total <= capacity:
                break
            path.unlink(missing_ok=True)
            total -= bytes_
        return True

    def _entries(self) -> Iterator[tuple[float, int, Path]]:
        """Yield (last use, bytes, path); remove what killed processes left."""
        now = time.time()
        for folder, _, names in os.walk(self.root):
            for name in names:
                if not name.endswith(_SUFFIX):
                    continue
                path = Path(folder, name)
                try:
                    stat = path.stat()
                except FileNotFoundError:
                    continue
                if not name.startswith('.'):
                    yield stat.st_mtime, stat.st_size, path
                elif (
                    not remove_abandoned([path])
                    and now - stat.st_mtime > _STALE_SECONDS
                ):
                    # On a file system without locks.
                    path.unlink(missing_ok=True)


class _Store:
    """Files below an address; what exceeds the bound is not written."""

    fill = 1.0

    def __init__(self, root: str, max_bytes: int, warn: _Warn):
        self.root = root.rstrip('/')
        self._max_bytes = max_bytes
        self._warn = warn
        self._backend = fileio.get_file_backend(self.root)
        self._resume = 0.0
        # Asks the store, so that a wrong address is told at the beginning.
        self.sizes()

    def read(self, name: str) -> bytes | None:
        if self._paused():
            return None
        try:
            return self._ask(self._backend.get, self._path(name))
        except FileNotFoundError:
            return None

    def write(self, name: str, content: bytes) -> None:
        self._ask(self._backend.put, content, self._path(name))
        self._written += len(content)

    def remove(self, name: str) -> None:
        self._ask(self._backend.remove, self._path(name))

    def size(self, name: str) -> int | None:
        return file_size(self._path(name))

    def sizes(self) -> dict[str, int]:
        found = {
            name: size
            for name, size in list_below(self.root).items()
            if name.endswith(_SUFFIX)
        }
        self._listed = sum(found.values())
        self._written = 0
        return found

    def free_bytes(self) -> None:
        return None

    def make_room(self, size: int) -> bool:
        """Tell whether ``size`` more bytes stay below the bound."""
        if self._paused():
            return False
        if self._fits(size):
            return True
        if self._written > self._max_bytes * _MEASURE_EVERY:
            # What was written in place of an older entry was counted twice.
            self._ask(self.sizes)
            if self._fits(size):
                return True
        self._warn(
            'full',
            f'The cache {self.root} has reached its bound of '
            f'{self._max_bytes:,} bytes: what is new is not kept. Raise the '
            'bound, or delete entries there that no run needs.',
        )
        return False

    def _fits(self, size):
        return self._listed + self._written + size <= self._max_bytes

    def _path(self, name):
        return f'{self.root}/{name}'

    def _paused(self):
        return time.monotonic() < self._resume

    def _ask(self, function, *arguments):
        """Call a function that asks the store; if that fails, make a pause."""
        begun = time.monotonic()
        try:
            return function(*arguments)
        except FileNotFoundError:
            raise
        except (OSError, RemoteError):
            now = time.monotonic()
            pause = max(_PAUSE_SECONDS, _PAUSE_FACTOR * (now - begun))
            self._resume = now + pause
            raise


def _digest(payload):
    return hashlib.blake2b(payload, digest_size=_DIGEST_BYTES).digest()
