"""Masks of everything in an image, by a grid of points through a model.

The rules are those of segment-anything's ``SamAutomaticMaskGenerator`` on the
whole image, without crops of it: all masks of each point, of which those of
low predicted quality or stability are left out, and of two whose boxes are
nearly the same the one of lower quality.
"""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torchvision.ops import nms

from clouds_mmseg.refine.prediction_cache import SAMPredictions
from clouds_mmseg.refine.prompted_model import Embedding, PromptedModel


class MaskRules(NamedTuple):
    """Which masks are kept; the defaults are segment-anything's.

    Attributes:
        points_per_side: Of the grid.
        min_quality: Masks must have a predicted quality above this.
        min_stability: Least IoU of the mask with thresholds
            ``stability_offset`` above and below.
        stability_offset: In logits.
        max_box_iou: Of two masks whose boxes have a larger IoU one is left
            out.
    """

    points_per_side: int = 32
    min_quality: float = 0.88
    min_stability: float = 0.95
    stability_offset: float = 1.0
    max_box_iou: float = 0.7


def grid_points(per_side: int, size: tuple[int, int]) -> np.ndarray:
    """Return the centres of a grid of cells.

    Args:
        per_side: Cells in each direction, at least 1.
        size: (H, W) of the image.

    Returns:
        (per_side ** 2, 1, 2) float32, (x, y) in pixels, row by row.
    """
    offset = 1 / (2 * per_side)
    centres = np.linspace(offset, 1 - offset, per_side)
    x, y = np.meshgrid(centres, centres)
    points = np.stack([x, y], axis=-1).reshape(-1, 2)
    return (points * (size[1], size[0])).astype(np.float32)[:, None]


@torch.no_grad()
def automatic_masks(
    model: PromptedModel,
    embedding: Embedding,
    size: tuple[int, int],
    rules: MaskRules,
    batch: int,
) -> SAMPredictions:
    """Find the masks of an image.

    Args:
        model: Prompted by points.
        embedding: Of the image.
        size: (H, W) of the image.
        rules: See :class:`MaskRules`.
        batch: Points that are decoded at once.

    Returns:
        N masks of descending quality, with their points (N, 1, 2).
    """
    points = grid_points(rules.points_per_side, size)
    found: list[tuple[np.ndarray, Tensor, Tensor, Tensor]] = []
    for part in np.split(points, range(batch, len(points), batch)):
        logits, quality = model.decode(embedding, part, size)
        rows, columns = torch.where(quality > rules.min_quality)
        if not len(rows):
            continue
        # Only what may be kept is upscaled to the image.
        full = model.upscale(logits[rows, columns], size)
        masks = full > model.mask_threshold
        kept = masks.flatten(1).any(dim=1) & (
            stability(full, model.mask_threshold, rules.stability_offset)
            >= rules.min_stability
        )
        masks = masks[kept].cpu()
        found.append(
            (
                part[rows[kept].cpu().numpy()],
                masks,
                quality[rows, columns][kept].cpu(),
                bounding_boxes(masks),
            )
        )
    if not found:
        return SAMPredictions(
            np.zeros((0, 1, 2), np.float32),
            np.zeros((0, *size), bool),
            np.zeros(0, np.float32),
        )
    prompts = np.concatenate([x[0] for x in found])
    masks, quality, boxes = (
        torch.cat([x[i] for x in found]) for i in (1, 2, 3)
    )
    kept = nms(boxes, quality, rules.max_box_iou)
    return SAMPredictions(
        prompts[kept.numpy()], masks[kept].numpy(), quality[kept].numpy()
    )


def stability(logits: Tensor, threshold: float, offset: float) -> Tensor:
    """Return how little masks depend on their threshold.

    Args:
        logits: (N, H, W).
        threshold: Logits above it are inside.
        offset: By which the threshold is raised and lowered.

    Returns:
        (N,) float32 in [0, 1]: IoU of the masks of both thresholds, of which
        one contains the other; NaN if both are empty.
    """
    inner = (logits > threshold + offset).flatten(1).sum(dim=1)
    outer = (logits > threshold - offset).flatten(1).sum(dim=1)
    return inner / outer


def bounding_boxes(masks: Tensor) -> Tensor:
    """Return the boxes of masks.

    Args:
        masks: (N, H, W) bool, none of them empty.

    Returns:
        (N, 4) float32: x and y of the first pixel, then of the last.
    """
    sides = []
    for extent in (masks.any(dim=1), masks.any(dim=2)):  # (N, W), (N, H)
        last = extent.shape[1] - 1
        extent = extent.to(torch.uint8)
        sides.append((extent.argmax(dim=1), last - extent.flip(1).argmax(1)))
    (x0, x1), (y0, y1) = sides
    return torch.stack([x0, y0, x1, y1], dim=1).float()
