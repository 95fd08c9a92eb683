"""Cache of arrays in a folder shared by processes; what is kept in it."""

import hashlib
import io
import logging
import os
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from mmengine.logging import print_log

from clouds_mmseg.refine.prompted_model import Embedding
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
        if size > self.max_bytes * _FILL:
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

    def _make_room(self, size):
        """Evict entries so that ``size`` more bytes fit; measure at times."""
        if self._unmeasured is not None:
            self._unmeasured += size
            if self._unmeasured < self.max_bytes * _MEASURE_EVERY:
                return
        self._unmeasured = size
        entries = sorted(self._entries())
        total = size + sum(bytes_ for _, bytes_, _ in entries)
        if total <= self.max_bytes * _FILL:
            return
        self._warn_once(
            'evict',
            f'The cache {self.folder} has reached its bound of '
            f'{self.max_bytes:,} bytes: the entries that were not used for '
            'longest make room. If one epoch does not fit, most of it is '
            'computed again in each: raise the bound.',
        )
        for _, bytes_, path in entries:
            if total <= self.max_bytes * _FILL:
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


class SAMPredictions(NamedTuple):
    """SAM's best mask for each of N prompts.

    Attributes:
        points: The prompts, (N, P, 2) float32, (x, y) in pixels.
        masks: (N, H, W) bool.
        quality: (N,) float32, as SAM predicts it.
    """

    points: np.ndarray
    masks: np.ndarray
    quality: np.ndarray

    def find(self, points: np.ndarray) -> np.ndarray:
        """Look up prompts.

        Args:
            points: (M, P, 2) float32.

        Returns:
            (M,) int64, the index of each prompt's prediction; -1 for none.
        """
        rows = {p.tobytes(): i for i, p in enumerate(self.points)}
        return np.array([rows.get(p.tobytes(), -1) for p in points], np.int64)

    def select(self, index: np.ndarray) -> 'SAMPredictions':
        """Select predictions by ``index``, (M,) int64 or (N,) bool."""
        return SAMPredictions(*(field[index] for field in self))

    def concat(self, other: 'SAMPredictions') -> 'SAMPredictions':
        """Return these predictions, then those of ``other``, in a new one."""
        pairs = zip(self, other, strict=True)
        return SAMPredictions(*(np.concatenate(pair) for pair in pairs))


def no_predictions(num_points: int, size: tuple[int, int]) -> SAMPredictions:
    """Return an empty object, N = 0, for P points and size (H, W)."""
    return SAMPredictions(
        np.zeros((0, num_points, 2), np.float32),
        np.zeros((0, *size), bool),
        np.zeros(0, np.float32),
    )


def pack_arrays(compress: bool = False, **arrays: np.ndarray) -> np.ndarray:
    """Join arrays into one that the cache takes.

    Args:
        compress: Whether equal neighbours are likely.
        **arrays: Any dtype but object.

    Returns:
        (bytes,) uint8.
    """
    stream = io.BytesIO()
    save = np.savez_compressed if compress else np.savez
    save(stream, **arrays)
    return np.frombuffer(stream.getvalue(), np.uint8)


def unpack_arrays(array: np.ndarray) -> dict[str, np.ndarray]:
    """Restore the arrays that :func:`pack_arrays` joined."""
    with np.load(io.BytesIO(array.tobytes()), allow_pickle=False) as stored:
        return dict(stored)


def pack(predictions: SAMPredictions) -> np.ndarray:
    """Compress predictions to one array, at one bit a pixel.

    Args:
        predictions: At least one.

    Returns:
        (bytes,) uint8; 9 KB for 39 masks of 768 x 768 with smooth borders.
    """
    return pack_arrays(
        compress=True,
        points=predictions.points,
        bits=np.packbits(predictions.masks, axis=-1),
        quality=predictions.quality,
    )


def unpack(array: np.ndarray, width: int) -> SAMPredictions:
    """Restore the predictions that :func:`pack` compressed.

    Args:
        array: (bytes,) uint8.
        width: Of the image; rows are stored in whole bytes.
    """
    stored = unpack_arrays(array)
    return SAMPredictions(
        stored['points'],
        np.unpackbits(stored['bits'], axis=-1, count=width).view(bool),
        stored['quality'],
    )


def pack_embedding(embedding: Embedding) -> np.ndarray:
    """Convert an embedding to an array of half precision.

    Values that half precision cannot hold, above 65,504, are kept in single
    precision.

    Args:
        embedding: One map (1, C, h, w), or several.

    Returns:
        One map as it is; several as (bytes,) uint8.
    """
    if isinstance(embedding, torch.Tensor):
        return _half(embedding)
    return pack_arrays(
        **{f'part{i}': _half(part) for i, part in enumerate(embedding)}
    )


def unpack_embedding(
    array: np.ndarray, device: str | torch.device
) -> Embedding:
    """Restore the embedding that :func:`pack_embedding` converted."""
    if array.dtype != np.uint8:
        return torch.from_numpy(array).to(device)
    parts = unpack_arrays(array)
    return tuple(
        torch.from_numpy(parts[f'part{i}']).to(device)
        for i in range(len(parts))
    )


def _half(tensor):
    half = tensor.half()
    kept = half if half.isfinite().all() else tensor.float()
    return kept.cpu().numpy()
