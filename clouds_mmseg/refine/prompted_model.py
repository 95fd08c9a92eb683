"""Interface of the models of the SAM family, and operations on their masks.

Shape letters: H, W of the image; N prompts of P points each, M masks a
prompt, S, T the size of the masks before they are upscaled.
"""

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

# What an image encoder returns: one map, or several.
Embedding: TypeAlias = Tensor | tuple[Tensor, ...]


class PromptedModel:
    """A frozen model that keeps no state between calls.

    A subclass gives :meth:`embed`, :meth:`decode`, :meth:`upscale`,
    :meth:`to` and :attr:`device`.

    Attributes:
        identity (str): Kind and hash of the weights, for cache keys:
            embeddings depend on it and the image only.
        mask_threshold (float): Logits above it are inside of a mask.
    """

    identity: str
    mask_threshold = 0.0

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        raise NotImplementedError

    def to(self, device: str | torch.device) -> None:
        """Move the weights to a device."""
        raise NotImplementedError

    def embed(self, image: np.ndarray) -> Embedding:
        """Run the image encoder.

        Args:
            image: (H, W, 3) uint8 RGB.

        Returns:
            Maps of a batch of one, float, on the device.
        """
        raise NotImplementedError

    def decode(
        self,
        embedding: Embedding,
        prompts: np.ndarray,
        size: tuple[int, int],
        mask_input: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Predict the masks of each prompt.

        Args:
            embedding: Of :meth:`embed`.
            prompts: (N, P, 2) float32, (x, y) in pixels of the image.
            size: (H, W) of the image.
            mask_input: (N, S, T) float32: logits of an earlier call, for a
                second pass.

        Returns:
            Logits (N, M, S, T) and predicted qualities (N, M), float32.
        """
        raise NotImplementedError

    def upscale(self, logits: Tensor, size: tuple[int, int]) -> Tensor:
        """Interpolate logits (N, S, T) to the image, (N, H, W)."""
        raise NotImplementedError

    @torch.no_grad()
    def best_masks(
        self,
        embedding: Embedding,
        prompts: np.ndarray,
        size: tuple[int, int],
        mask_input: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Predict the mask of the highest quality for each prompt.

        Args:
            embedding: See :meth:`decode`, as the others.
            prompts: (N, P, 2) float32.
            size: (H, W) of the image.
            mask_input: (N, S, T) float32.

        Returns:
            Masks (N, H, W) bool, their predicted quality (N,) float32, and
            their logits (N, S, T) float32.
        """
        logits, quality = self.decode(embedding, prompts, size, mask_input)
        # The selection needs the quality only: upscale just the selected
        # masks to the size of the image.
        low = select_best(logits, quality)
        masks = self.upscale(low, size) > self.mask_threshold
        return masks, quality.amax(dim=1), low


def as_parts(embedding: Embedding) -> Sequence[Tensor]:
    """Return the maps of an embedding."""
    return (embedding,) if isinstance(embedding, Tensor) else embedding


def select_best(masks: Tensor, quality: Tensor) -> Tensor:
    """Select the mask of the highest predicted quality for each prompt.

    Args:
        masks: (N, M, H, W).
        quality: (N, M), the predicted quality; on a tie the first is taken.

    Returns:
        (N, H, W), dtype of ``masks``.
    """
    index = torch.arange(len(masks), device=masks.device)
    return masks[index, quality.argmax(dim=1)]


def drop_overlaps(masks: Tensor) -> Tensor:
    """Remove pixels covered by several masks from all of them.

    Args:
        masks: (N, H, W) bool.

    Returns:
        (N, H, W) bool, a new tensor.
    """
    # In 16 bits: by default the sum is int64, four times the memory.
    return masks & (masks.sum(dim=0, dtype=torch.int16) <= 1)


def paint(masks: Tensor, classes: Tensor, ignore_index: int = 255) -> Tensor:
    """Draw masks into a label map, later masks over earlier ones.

    Args:
        masks: (N, H, W) bool.
        classes: (N,) int64.
        ignore_index: Label of pixels that no mask covers.

    Returns:
        (H, W) int64.
    """
    label = torch.full(
        masks.shape[1:], ignore_index, dtype=torch.int64, device=masks.device
    )
    for mask, value in zip(masks, classes.tolist(), strict=True):
        label.masked_fill_(mask, value)
    return label
