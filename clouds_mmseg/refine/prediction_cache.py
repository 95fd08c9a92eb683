"""Cache of SAM's predictions in a folder shared by processes."""

import hashlib
import io
import logging
import os
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
from mmengine.logging import print_log

from clouds_mmseg.utils.atomic import atomic_path
from clouds_mmseg.utils.errors import UserError

_SUFFIX = '.arr'
_DIGEST_BYTES = 16
# The folder is measured after every 2 % of the bound that was written, and
# emptied down to 80 %. Processes do not talk to one another: up to ten of
# them stay below the bound together.
_MEASURE_EVERY = 0.02
_FILL = 0.8
# A temporary file this old was left behind by a process that was killed.
_STALE_SECONDS = 3600


class ArrayCache:
    """Arrays by key, on disk, shared by processes, least recently used out.

    A cache can only ever save time: an entry that vanished, was cut short or
    was altered reads as absent, and an array that cannot be written (a full
    disk) is reported once and not kept.

    Args:
        folder (str | Path): Where the files lie; made if needed. One folder
            may hold the entries of several producers, told apart by key.
        max_bytes (int): Bound on the sum of the file sizes.

    Raises:
        UserError: If ``folder`` is a file or cannot be made, or the bound is
            not positive.
    """

    def __init__(self, folder, max_bytes):
        if max_bytes <= 0:
            raise UserError(
                f'max_bytes of the cache {folder} must be positive, got '
                f'{max_bytes}. Leave the folder out for no cache.'
            )
        self.folder = Path(folder).expanduser()
        self.max_bytes = int(max_bytes)
        self._unmeasured = None
        self._told = set()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(
                f'Cannot make the cache folder {self.folder}: '
                f'{error.strerror}. Name a folder that can be written.'
            ) from error

    def path(self, key):
        """Return where the array of a key lies, whether or not it exists.

        Args:
            key (str): Hexadecimal digits, at least three.

        Returns:
            Path: In one of 256 subfolders, because some file systems get
            slow with tens of thousands of files in one folder.
        """
        return self.folder / key[:2] / f'{key[2:]}{_SUFFIX}'

    def get(self, key):
        """Read an array and mark it as used.

        Args:
            key (str): See :meth:`path`.

        Returns:
            np.ndarray | None: The array as stored, or None if it is absent
            or damaged; a damaged file is removed.
        """
        path = self.path(key)
        try:
            content = path.read_bytes()
            os.utime(path)
        except FileNotFoundError:
            return None
        except OSError as error:
            self._tell_once('read', f'Cannot read {path}: {error}.')
            return None
        payload = content[_DIGEST_BYTES:]
        if content[:_DIGEST_BYTES] != _digest(payload):
            print_log(
                f'{path} is damaged; made again.', 'current', logging.WARNING
            )
            path.unlink(missing_ok=True)
            return None
        return np.load(io.BytesIO(payload), allow_pickle=False)

    def put(self, key, array):
        """Store an array; an error of the file system only costs the entry.

        Args:
            key (str): See :meth:`path`.
            array (np.ndarray): Any dtype but object.
        """
        stream = io.BytesIO()
        np.save(stream, array, allow_pickle=False)
        payload = stream.getvalue()
        size = len(payload) + _DIGEST_BYTES
        if size > self.max_bytes * _FILL:
            self._tell_once(
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
            self._tell_once(
                'write',
                f'Cannot write to the cache {self.folder}: {error}. '
                'Training goes on without what is not kept.',
            )

    def _make_room(self, size):
        """Count what is to be written; now and then measure and evict."""
        if self._unmeasured is not None:
            self._unmeasured += size
            if self._unmeasured < self.max_bytes * _MEASURE_EVERY:
                return
        self._unmeasured = size
        entries = sorted(self._entries())
        total = size + sum(bytes_ for _, bytes_, _ in entries)
        if total <= self.max_bytes * _FILL:
            return
        self._tell_once(
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
        """Yield (last use, bytes, path) and sweep what a kill left behind."""
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
                elif now - stat.st_mtime > _STALE_SECONDS:
                    Path(path).unlink(missing_ok=True)

    def _tell_once(self, topic, message):
        if topic not in self._told:
            self._told.add(topic)
            print_log(message, 'current', logging.WARNING)


def _digest(payload):
    return hashlib.blake2b(payload, digest_size=_DIGEST_BYTES).digest()


class SAMPredictions(NamedTuple):
    """SAM's best mask for each prompt.

    Attributes:
        points (np.ndarray): (N, P, 2) float32, (x, y) in pixels.
        masks (np.ndarray): (N, H, W) bool.
        quality (np.ndarray): (N,) float32, as SAM predicts it.
    """

    points: np.ndarray
    masks: np.ndarray
    quality: np.ndarray

    def find(self, points):
        """Look up prompts.

        Args:
            points (np.ndarray): (M, P, 2) float32.

        Returns:
            np.ndarray: (M,) int64, which answer is that to each of them;
            -1 for none.
        """
        places = {p.tobytes(): i for i, p in enumerate(self.points)}
        return np.array(
            [places.get(p.tobytes(), -1) for p in points], np.int64
        )

    def take(self, index):
        """Select answers.

        Args:
            index (np.ndarray): (M,) int64 or bool.

        Returns:
            SAMPredictions: M of them.
        """
        return SAMPredictions(*(field[index] for field in self))

    def joined(self, other):
        """Append the answers to other prompts of the same image.

        Args:
            other (SAMPredictions): They.

        Returns:
            SAMPredictions: These, then those.
        """
        pairs = zip(self, other, strict=True)
        return SAMPredictions(*(np.concatenate(pair) for pair in pairs))


def no_predictions(num_points, size):
    """Make the answers to no prompts.

    Args:
        num_points (int): P.
        size (tuple[int, int]): (H, W).

    Returns:
        SAMPredictions: N is 0.
    """
    return SAMPredictions(
        np.zeros((0, num_points, 2), np.float32),
        np.zeros((0, *size), bool),
        np.zeros(0, np.float32),
    )


def pack(answers):
    """Write answers as one small array: a bit a pixel, then compressed.

    Args:
        answers (SAMPredictions): At least one.

    Returns:
        np.ndarray: (bytes,) uint8; 9 KB for 39 masks of 768 x 768 with
        smooth borders.
    """
    stream = io.BytesIO()
    np.savez_compressed(
        stream,
        points=answers.points,
        bits=np.packbits(answers.masks, axis=-1),
        quality=answers.quality,
    )
    return np.frombuffer(stream.getvalue(), np.uint8)


def unpack(array, width):
    """Read what :func:`pack` wrote.

    Args:
        array (np.ndarray): (bytes,) uint8.
        width (int): Of the image; bits are kept by eights.

    Returns:
        SAMPredictions: As they were.
    """
    with np.load(io.BytesIO(array.tobytes()), allow_pickle=False) as stored:
        return SAMPredictions(
            stored['points'],
            np.unpackbits(stored['bits'], axis=-1, count=width).view(bool),
            stored['quality'],
        )
