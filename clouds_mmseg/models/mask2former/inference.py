"""Masks and semantic scores from queries and mask features."""

import torch
import torch.nn.functional as F

from clouds_mmseg.utils.cityscapes import IGNORE
from clouds_mmseg.utils.finite import require_finite_best

# Bytes of the masks that are made at a time: they stay in a core's cache.
_STRIP_BYTES = 1 << 20


def semantic_scores(cls_logits, mask_logits, size):
    """Sum up the masks of all queries, weighted by their classes.

    Source: Mask2Former (arXiv 2112.01527), its semantic inference: masks
    are resized bilinearly as logits, then squashed. Summing the squashed
    masks first and resizing K maps instead of Q masks would be cheaper, but
    it moves the borders between classes; here the masks are never all at
    full size at once.

    Args:
        cls_logits (Tensor): (N, Q, K + 1), the last one "no object".
        mask_logits (Tensor): (N, Q, h, w).
        size (tuple[int, int]): Height and width of the result.

    Returns:
        Tensor: (N, K, *size) float32, not negative.
    """
    size = tuple(size)
    shape = (len(cls_logits), cls_logits.shape[-1] - 1, *size)
    scores = torch.empty(shape, device=cls_logits.device)
    for index, image in enumerate(_each_image(cls_logits, mask_logits)):
        for _ in _strips(*image, size, scores[index]):
            pass
    return scores


def semantic_labels(
    cls_logits, mask_logits, size, *, threshold=None, images=None
):
    """Name the best class of each pixel, without all scores at a time.

    The labels are those of :func:`semantic_scores`: K maps at full size are
    1.3 GB for 19 classes of an image of 4096x4096, and nobody keeps them.

    Args:
        cls_logits (Tensor): (N, Q, K + 1), the last one "no object".
        mask_logits (Tensor): (N, Q, h, w).
        size (tuple[int, int]): Height and width of the result.
        threshold (float, optional): For one class: see
            :func:`label_of_scores`.
        images (Sequence[str], optional): N paths, for messages.

    Returns:
        Tensor: (N, *size) int64.

    Raises:
        NonFiniteError: A pixel's best score is NaN or infinite.
    """
    size = tuple(size)
    labels = cls_logits.new_empty((len(cls_logits), *size), dtype=torch.long)
    for label, image, path in zip(
        labels,
        _each_image(cls_logits, mask_logits),
        images or [None] * len(labels),
        strict=True,
    ):
        for top, bottom, scores in _strips(*image, size):
            label[top:bottom] = label_of_scores(scores, threshold, image=path)
    return labels


def label_of_scores(
    scores, threshold=None, *, size=None, align_corners=False, image=None
):
    """Name the best class of each pixel, of one image.

    Args:
        scores (Tensor): (K, H, W), of one class as the head gives them: not
            negative.
        threshold (float, optional): Of one class, which is predicted where
            its score is greater; elsewhere nothing is, 255. Must be given
            if K is 1.
        size (tuple[int, int], optional): Height and width to which scores
            are resized bilinearly, one class after the other.
        align_corners (bool): As for ``F.interpolate``.
        image (str, optional): Path of the image, for messages.

    Returns:
        Tensor: (H, W) int64, or of ``size``.

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
        scored = map_of(index)
        label.masked_fill_(scored > best, index)
        best = torch.maximum(best, scored)
    require_finite_best(best, image)
    return label


def _each_image(cls_logits, mask_logits):
    """Pairs of (K, Q) probabilities and (Q, h, w) float32 masks."""
    classes = cls_logits.float().softmax(-1)[..., :-1].transpose(1, 2)
    for of_class, logits in zip(classes, mask_logits, strict=True):
        yield of_class, logits.float()


def _strips(classes, logits, size, out=None):
    """Scores of an image from top to bottom.

    Args:
        classes (Tensor): (K, Q).
        logits (Tensor): (Q, h, w).
        size (tuple[int, int]): Height and width of the result.
        out (Tensor, optional): (K, *size), filled with all scores.

    Yields:
        tuple[int, int, Tensor]: First row, row behind the last, and the
        scores between them, (K, rows, W).
    """
    scale = _whole_scale(logits.shape[-2:], size)
    if scale:
        yield from _scaled_strips(classes, logits, scale, out)
        return
    with torch.autocast(logits.device.type, enabled=False):
        masks = F.interpolate(
            logits[None], size=size, mode='bilinear', align_corners=False
        )
        masks = masks[0].sigmoid_().flatten(1)  # (Q, H * W)
        scores = (classes @ masks).unflatten(1, size)
    yield 0, size[0], scores if out is None else out.copy_(scores)


def _whole_scale(cells, size):
    """How many pixels make a cell's side, 0 if that is no whole number."""
    scale = size[0] // cells[0]
    return scale if size == (cells[0] * scale, cells[1] * scale) else 0


def _scaled_strips(classes, logits, scale, out):
    """:func:`_strips` for a whole number of pixels a cell.

    Pixel p of each cell lies at the same place between two cells: S * S
    maps of the size of ``logits``, each a blend of ``logits`` with itself
    moved by one cell, hold all pixels. Only the K sums are put in order.
    """
    queries, height, width = logits.shape
    padded = F.pad(logits[None], (1, 1, 1, 1), mode='replicate')[0]
    rows = height
    if not logits.is_cuda:
        rows = max(1, _STRIP_BYTES // (4 * queries * width))
    places = [_place(p, scale) for p in range(scale)]
    for top in range(0, height, rows):
        bottom = min(top + rows, height)
        first, last = top * scale, bottom * scale
        if out is None:
            shape = (len(classes), last - first, width * scale)
            scores = logits.new_empty(shape)
        else:
            scores = out[:, first:last]
        cells = scores.unflatten(1, (-1, scale)).unflatten(3, (-1, scale))
        with torch.autocast(logits.device.type, enabled=False):
            for y, (down, part_y) in enumerate(places):
                upper = padded[:, top + down : bottom + down]
                lower = padded[:, top + down + 1 : bottom + down + 1]
                strip = torch.lerp(upper, lower, part_y)  # (Q, rows, w + 2)
                for x, (right, part_x) in enumerate(places):
                    masks = torch.lerp(
                        strip[..., right : right + width],
                        strip[..., right + 1 : right + 1 + width],
                        part_x,
                    ).sigmoid_()
                    sums = classes @ masks.flatten(1)
                    cells[:, :, y, :, x] = sums.unflatten(1, (-1, width))
        yield first, last, scores


def _place(pixel, scale):
    """Between which two cells a pixel lies, and how far from the first.

    Args:
        pixel (int): Of a cell, in [0, scale).
        scale (int): Pixels along the side of a cell.

    Returns:
        tuple[int, float]: 0 for the cell before and this one, 1 for this
        one and the next; and the share of the second, in [0, 1).
    """
    offset = (pixel + 0.5) / scale - 0.5
    return (0, 1 + offset) if offset < 0 else (1, offset)
