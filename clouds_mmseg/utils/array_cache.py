"""Cache of arrays in a folder that processes share."""

import hashlib
import io
import logging
import os
import time
from pathlib import Path

import numpy as np
from mmengine.logging import print_log

from clouds_mmseg.utils.atomic import atomic_path, remove_abandoned
from clouds_mmseg.utils.errors import UserError

_SUFFIX = '.arr'
_DIGEST_BYTES = 16
# The size of the folder is measured each time 2 % of the bound were written,
# and reduced to 80 %. Processes do not communicate: up to ten of them stay
# below the bound together.
_MEASURE_EVERY = 0.02
_FILL = 0.8
# A temporary file this old was left behind by a process that was killed.
_STALE_SECONDS = 3600


class ArrayCache:
    """LRU cache of arrays on disk, shared by processes.

    Errors never change a result: an entry that is missing, truncated or
    altered counts as absent, and an array that cannot be written (a full
    disk) is reported once and not stored.

    Args:
        folder: Folder of the files, created if needed. It may hold the
            entries of several producers, distinguished by key.
        max_bytes: Bound on the sum of the file sizes.

    Raises:
        UserError: If ``folder`` is a file or cannot be created, or the bound
            is not positive.
    """

    def __init__(self, folder: str | Path, max_bytes: int):
        if max_bytes <= 0:
            raise UserError(
                f'max_bytes of the cache {folder} must be positive, got '
                f'{max_bytes}. Leave the folder out for no cache.'
            )
        self.folder = Path(folder).expanduser()
        self.max_bytes = int(max_bytes)
        self._unmeasured = None
        self._warned = set()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(
                f'Cannot make the cache folder {self.folder}: '
                f'{error.strerror}. Name a folder that can be written.'
            ) from error

    def path(self, key: str) -> Path:
        """Return the file of a key, whether or not it exists.

        Args:
            key: Hexadecimal digits, at least three.

        Returns:
            A path in one of 256 subfolders, because some file systems get
            slow with tens of thousands of files in one folder.
        """
        return self.folder / key[:2] / f'{key[2:]}{_SUFFIX}'

    def get(self, key: str) -> np.ndarray | None:
        """Read an array and mark it as used.

        Args:
            key: See :meth:`path`.

        Returns:
            The array as stored, or None if it is absent or damaged; a damaged
            file is removed.
        """
        path = self.path(key)
        try:
            content = path.read_bytes()
            os.utime(path)
        except FileNotFoundError:
            return None
        except OSError as error:
            self._warn_once('read', f'Cannot read {path}: {error}.')
            return None
        payload = content[_DIGEST_BYTES:]
        if content[:_DIGEST_BYTES] != _digest(payload):
            print_log(
                f'{path} is damaged; made again.', 'current', logging.WARNING
            )
            path.unlink(missing_ok=True)
            return None
        return np.load(io.BytesIO(payload), allow_pickle=False)

    def put(self, key: str, array: np.ndarray) -> None:
        """Store an array; on a file system error it is not stored.

        Args:
            key: See :meth:`path`.
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
            self._make_room(size)
            with atomic_path(self.path(key)) as temporary:
                temporary.write_bytes(_digest(payload) + payload)
        except OSError as error:
            self._warn_once(
                'write',
                f'Cannot write to the cache {self.folder}: {error}. '
                'Training goes on without what is not kept.',
            )

    @property
    def capacity(self) -> int:
        """Bytes that stay when room is made: what is sure to be kept."""
        return int(self.max_bytes * _FILL)

    def used_bytes(self) -> int:
        """Return the sum of the sizes of all files."""
        return sum(size for _, size, _ in self._entries())

    def _make_room(self, size):
        """Evict entries so that ``size`` more bytes fit; measure at times."""
        if self._unmeasured is not None:
            self._unmeasured += size
            if self._unmeasured < self.max_bytes * _MEASURE_EVERY:
                return
        self._unmeasured = size
        entries = sorted(self._entries())
        total = size + sum(bytes_ for _, bytes_, _ in entries)
        if total <= self.capacity:
            return
        self._warn_once(
            'evict',
            f'The cache {self.folder} has reached its bound of '
            f'{self.max_bytes:,} bytes: the entries that were not used for '
            'longest make room. If one epoch does not fit, most of it is '
            'computed again in each: raise the bound.',
        )
        for _, bytes_, path in entries:
            if total <= self.capacity:
                break
            Path(path).unlink(missing_ok=True)
            total -= bytes_

    def _entries(self):
        """Yield (last use, bytes, path); remove what killed processes left."""
        now = time.time()
        for folder, _, names in os.walk(self.folder):
            for name in names:
                if not name.endswith(_SUFFIX):
                    continue
                path = os.path.join(folder, name)
                try:
                    stat = os.stat(path)
                except FileNotFoundError:
                    continue
                if not name.startswith('.'):
                    yield stat.st_mtime, stat.st_size, path
                elif (
                    not remove_abandoned([Path(path)])
                    and now - stat.st_mtime > _STALE_SECONDS
                ):
                    # On a file system without locks.
                    Path(path).unlink(missing_ok=True)

    def _warn_once(self, topic, message):
        if topic not in self._warned:
            self._warned.add(topic)
            print_log(message, 'current', logging.WARNING)


def _digest(payload):
    return hashlib.blake2b(payload, digest_size=_DIGEST_BYTES).digest()
