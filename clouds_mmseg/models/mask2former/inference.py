"""Semantic inference: class scores and labels from classes and masks.

Letters: N images, Q queries, K classes, h and w of a mask, H and W of the
result.
"""

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from clouds_mmseg.utils.cityscapes import IGNORE
from clouds_mmseg.utils.finite import require_finite_best

# Bytes of the masks that are computed at a time: they stay in the cache.
_STRIP_BYTES = 1 << 20


def semantic_scores(
    cls_logits: Tensor, mask_logits: Tensor, size: Sequence[int]
) -> Tensor:
    """Sum the masks of all queries, weighted by their class probabilities.

    Source: semantic inference of Mask2Former (arXiv 2112.01527): mask logits
    are resized bilinearly, then the sigmoid is taken. Summing first and
    resizing K maps instead of Q masks would be cheaper, but it moves the
    borders between classes; here the masks are never all held at full size.

    Args:
        cls_logits: (N, Q, K + 1), the last one "no object".
        mask_logits: (N, Q, h, w).
        size: H and W of the result.

    Returns:
        (N, K, H, W) float32, not negative.
    """
    size = (size[0], size[1])
    shape = (len(cls_logits), cls_logits.shape[-1] - 1, *size)
    scores = torch.empty(shape, device=cls_logits.device)
    for index, image in enumerate(_split_batch(cls_logits, mask_logits)):
        for _ in _score_strips(*image, size, scores[index]):
            pass
    return scores


def semantic_labels(
    cls_logits: Tensor,
    mask_logits: Tensor,
    size: Sequence[int],
    *,
    threshold: float | None = None,
    images: Sequence[str | None] | None = None,
) -> Tensor:
    """Predict the best class of each pixel without holding all scores.

    The labels are those of :func:`semantic_scores`, whose K maps at full size
    take 1.3 GB for 19 classes of an image of 4096x4096.

    Args:
        cls_logits: (N, Q, K + 1), the last one "no object".
        mask_logits: (N, Q, h, w).
        size: H and W of the result.
        threshold: For one class: see :func:`label_of_scores`.
        images: N paths, for messages.

    Returns:
        (N, H, W) int64.

    Raises:
        NonFiniteError: A pixel's best score is NaN or infinite.
    """
    size = (size[0], size[1])
    labels = cls_logits.new_empty((len(cls_logits), *size), dtype=torch.long)
    for label, image, path in zip(
        labels,
        _split_batch(cls_logits, mask_logits),
        images or [None] * len(labels),
        strict=True,
    ):
        for top, bottom, scores in _score_strips(*image, size):
            label[top:bottom] = label_of_scores(scores, threshold, image=path)
    return labels


def label_of_scores(
    scores: Tensor,
    threshold: float | None = None,
    *,
    size: Sequence[int] | None = None,
    align_corners: bool = False,
    image: str | None = None,
) -> Tensor:
    """Find the best class of each pixel of one image.

    Args:
        scores: (K, H, W). If K is 1, not negative, as the head predicts them.
        threshold: Needed if K is 1: the class is predicted where its score
            is greater; all other pixels are 255.
        size: Height and width to which scores are resized bilinearly, one
            class after the other.
        align_corners: As for ``F.interpolate``.
        image: Path of the image, for messages.

    Returns:
        (H, W) int64, or of ``size``.

    Raises:
        NonFiniteError: A pixel's best score is NaN or infinite.
    """
    same = size is None or tuple(size) == tuple(scores.shape[1:])
    if same and len(scores) > 1:
        best, label = scores.max(dim=0)
        require_finite_best(best, image)
        return label

    def map_of(index):
        if same:
            return scores[index]
        return F.interpolate(
            scores[None, index : index + 1],
            size=size,
            mode='bilinear',
            align_corners=align_corners,
        )[0, 0]

    best = map_of(0)
    if len(scores) == 1:
        require_finite_best(best, image)
        label = torch.full_like(best, IGNORE, dtype=torch.long)
        return label.masked_fill_(best > threshold, 0)
    label = torch.zeros_like(best, dtype=torch.long)
    for index in range(1, len(scores)):
        current = map_of(index)
        label.masked_fill_(current > best, index)
        best = torch.maximum(best, current)
    require_finite_best(best, image)
    return label


def _split_batch(
    cls_logits: Tensor, mask_logits: Tensor
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield class probabilities (K, Q) and masks (Q, h, w) of each image."""
    classes = cls_logits.float().softmax(-1)[..., :-1].transpose(1, 2)
    for of_class, logits in zip(classes, mask_logits, strict=True):
        yield of_class, logits.float()


def _score_strips(
    classes: Tensor,
    logits: Tensor,
    size: tuple[int, int],
    out: Tensor | None = None,
) -> Iterator[tuple[int, int, Tensor]]:
    """Compute the scores of an image in horizontal strips, top to bottom.

    Args:
        classes: (K, Q) probabilities.
        logits: (Q, h, w) of the masks.
        size: H and W of the result.
        out: (K, H, W), filled with all scores.

    Yields:
        First row, row after the last one, and their scores, (K, rows, W).
    """
    scale = _integer_scale(logits.shape[-2:], size)
    if scale:
        yield from _upscaled_strips(classes, logits, scale, out)
        return
    with torch.autocast(logits.device.type, enabled=False):
        masks = F.interpolate(
            logits[None], size=size, mode='bilinear', align_corners=False
        )
        masks = masks[0].sigmoid_().flatten(1)  # (Q, H * W)
        scores = (classes @ masks).unflatten(1, size)
    yield 0, size[0], scores if out is None else out.copy_(scores)


def _integer_scale(mask_size, size):
    """Return the factor from ``mask_size`` to ``size``, 0 if not integer."""
    height, width = mask_size
    scale = size[0] // height
    return scale if size == (height * scale, width * scale) else 0


def _upscaled_strips(classes, logits, scale, out):
    """Compute :func:`_score_strips` for an integer upscaling factor S.

    Each mask pixel covers S * S pixels of the result. All result pixels with
    the same offset inside of their mask pixel have the same bilinear weights:
    their masks are one blend of ``logits`` with itself, shifted by one pixel.
    Only the K sums are interleaved.
    """
    queries, height, width = logits.shape
    padded = F.pad(logits[None], (1, 1, 1, 1), mode='replicate')[0]
    rows = height
    if not logits.is_cuda:
        rows = max(1, _STRIP_BYTES // (4 * queries * width))
    neighbours = [_neighbours(p, scale) for p in range(scale)]
    for top in range(0, height, rows):
        bottom = min(top + rows, height)
        first, last = top * scale, bottom * scale
        if out is None:
            shape = (len(classes), last - first, width * scale)
            scores = logits.new_empty(shape)
        else:
            scores = out[:, first:last]
        # (K, rows, S, w, S)
        by_offset = scores.unflatten(1, (-1, scale)).unflatten(3, (-1, scale))
        with torch.autocast(logits.device.type, enabled=False):
            for y, (down, dy) in enumerate(neighbours):
                upper = padded[:, top + down : bottom + down]
                lower = padded[:, top + down + 1 : bottom + down + 1]
                strip = torch.lerp(upper, lower, dy)  # (Q, rows, w + 2)
                for x, (right, dx) in enumerate(neighbours):
                    masks = torch.lerp(
                        strip[..., right : right + width],
                        strip[..., right + 1 : right + 1 + width],
                        dx,
                    ).sigmoid_()
                    sums = classes @ masks.flatten(1)
                    by_offset[:, :, y, :, x] = sums.unflatten(1, (-1, width))
        yield first, last, scores


def upscaled_scores(
    cls_logits: Tensor, mask_logits: Tensor, scale: int
) -> Tensor:
    """Compute :func:`semantic_scores` without loops over images and strips.

    Number and order of the operations do not depend on any size, so that
    ``torch.export`` can record them for all sizes. ``scale`` rows of masks
    are held at once, not a strip of the image.

    Args:
        cls_logits: (N, Q, K + 1), the last one "no object".
        mask_logits: (N, Q, h, w).
        scale: S, result pixels along the side of a mask pixel.

    Returns:
        (N, K, h * S, w * S) float32, not negative.
    """
    height, width = mask_logits.shape[-2:]
    classes = cls_logits.float().softmax(-1)[..., :-1].transpose(1, 2)
    padded = mask_logits.float()
    padded = torch.cat([padded[:, :, :1], padded, padded[:, :, -1:]], 2)
    padded = torch.cat([padded[..., :1], padded, padded[..., -1:]], 3)
    neighbours = [_neighbours(p, scale) for p in range(scale)]
    rows = torch.stack(
        [
            torch.lerp(
                padded[:, :, down : down + height],
                padded[:, :, down + 1 : down + 1 + height],
                dy,
            )
            for down, dy in neighbours
        ],
        dim=3,
    )  # (N, Q, h, S, w + 2)
    scores = []
    for right, dx in neighbours:
        masks = torch.lerp(
            rows[..., right : right + width],
            rows[..., right + 1 : right + 1 + width],
            dx,
        )
        scores.append(classes @ masks.sigmoid().flatten(2))
    joined = torch.stack(scores, dim=3)  # (N, K, h * S * w, S)
    return joined.unflatten(2, (height * scale, width)).flatten(3)


def _neighbours(pixel: int, scale: int) -> tuple[int, float]:
    """Find the two mask pixels that a result pixel is interpolated from.

    Args:
        pixel: Offset inside of its mask pixel, in [0, scale).
        scale: Result pixels along the side of a mask pixel.

    Returns:
        0 for the previous mask pixel and its own, 1 for its own and the
        next; and the bilinear weight of the second, in [0, 1).
    """
    offset = (pixel + 0.5) / scale - 0.5
    return (0, 1 + offset) if offset < 0 else (1, offset)
