"""What refiners keep in a cache on disk."""

import io
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from clouds_mmseg.refine.arguments import as_rgb_array
from clouds_mmseg.refine.prompted_model import Embedding
from clouds_mmseg.utils.array_cache import ArrayCache
from clouds_mmseg.utils.hashing import hash_array


class CachingRefiner:
    """Base of refiners that keep what they compute of an image alone.

    A subclass has ``_of_image(array, name)``, which computes or reads it, and
    ``_image_key(name)``, its key; ``name`` is the hash of the image.

    Args:
        cache_dir: Folder of the cache, or its address in a store. None for no
            cache.
        cache_bytes: Bound on its size.

    Attributes:
        cache: None without ``cache_dir``.
    """

    def __init__(self, cache_dir: str | None, cache_bytes: int):
        self.cache = ArrayCache(cache_dir, cache_bytes) if cache_dir else None

    def fill_cache(self, image: Tensor) -> str:
        """Keep what is computed of an image alone, before training.

        Args:
            image: (3, H, W) uint8 RGB.

        Returns:
            Key of its entry, which is absent if it could not be written.
        """
        array = as_rgb_array(image)
        name = hash_array(array)
        self._of_image(array, name)
        return self._image_key(name)

    def _of_image(self, array: np.ndarray, name: str) -> object:
        raise NotImplementedError

    def _image_key(self, name: str) -> str:
        raise NotImplementedError


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
