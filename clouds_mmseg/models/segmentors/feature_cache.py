"""Features of images that never change, computed once by a frozen tower.

Letters: M images, C channels, h and w of a view.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from mmseg.structures import SegDataSample
from torch import Tensor

from clouds_mmseg.utils.array_cache import ArrayCache
from clouds_mmseg.utils.hashing import hash_array, hash_text

Extractor = Callable[[Tensor], Sequence[Tensor]]


class _Layout(NamedTuple):
    """Shape and memory order of one map of a single view."""

    shape: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype


class FeatureCache:
    """Features of the teacher's views, kept on disk.

    A view is computed alone, never in a batch, and is rounded before it is
    used for the first time. So its features are the same whether they are
    read or computed, in whatever batch and in whichever process, and a run
    that is resumed sees what it would have seen.

    Args:
        store: Where they are kept.
        tower: Hash of what computes them: weights, settings, normalisation.
        half: Whether to round to half precision, which halves the files.
            Maps with values above 65,504 are kept in single precision.
    """

    def __init__(self, store: ArrayCache, tower: str, half: bool = True):
        self.store = store
        self.tower = tower
        self.half = half
        self._layouts: dict[tuple, list[_Layout]] = {}

    def names(self, samples: Sequence[SegDataSample]) -> list[str]:
        """Hash the clean views of samples.

        Args:
            samples: M samples with ``clean_img``, (3, H, W) uint8.

        Returns:
            M hashes of their content.
        """
        return [
            hash_array(sample.clean_img.data.cpu().numpy())
            for sample in samples
        ]

    def features(
        self,
        views: Tensor,
        names: Sequence[str],
        kind: str,
        compute: Extractor,
    ) -> list[Tensor]:
        """Read the features of views; compute and keep those that lack.

        Args:
            views: (M, 3, h, w) float, normalised.
            names: Of :meth:`names`.
            kind: How the views were made from the clean views.
            compute: The tower.

        Returns:
            Its maps, (M, C, ., .) each.
        """
        found = [
            self._one(view[None], name, kind, compute)
            for view, name in zip(views, names, strict=True)
        ]
        return [torch.cat(maps) for maps in zip(*found, strict=True)]

    @torch.no_grad()
    def nbytes(self, view: Tensor, compute: Extractor) -> int:
        """Return how many bytes the features of a view take.

        Args:
            view: (1, 3, h, w) float.
            compute: The tower.
        """
        maps = compute(view)
        self._layouts[_format_of(view)] = [_layout(x) for x in maps]
        return self._flat(maps).nbytes

    def _one(self, view, name, kind, compute):
        form = _format_of(view)
        key = hash_text(self.tower, name, kind, self.half, *form)
        flat = self.store.get(key)
        if flat is None:
            maps = compute(view)
            self._layouts[form] = [_layout(x) for x in maps]
            flat = self._flat(maps)
            self.store.put(key, flat)
        elif form not in self._layouts:
            # The files hold values alone, which keeps reading them cheap.
            self.nbytes(torch.zeros_like(view), compute)
        parts, start = [], 0
        for shape, stride, dtype in self._layouts[form]:
            end = start + int(np.prod(shape))
            values = torch.from_numpy(flat[start:end])
            values = values.to(view.device, dtype)
            parts.append(values.as_strided(shape, stride))
            start = end
        return parts

    def _flat(self, maps):
        """Join maps into one array, each in the order of its memory."""
        flat = torch.cat(
            [_filled(x).as_strided((x.numel(),), (1,)).float() for x in maps]
        )
        if self.half:
            half = flat.half()
            flat = half if half.isfinite().all() else flat
        return flat.cpu().numpy()


def _filled(features):
    """Return a map whose memory has no gaps, in its own order if it has."""
    for order in (torch.contiguous_format, torch.channels_last):
        if features.is_contiguous(memory_format=order):
            return features
    return features.contiguous()


def _layout(features):
    features = _filled(features)
    return _Layout(tuple(features.shape), features.stride(), features.dtype)


def _format_of(view):
    """Return what the maps' shapes and rounding depend on, for the key."""
    device = view.device.type
    precision = view.dtype
    if torch.is_autocast_enabled(device):
        precision = torch.get_autocast_dtype(device)
    return (*view.shape, device, precision)
