"""From the queries' classes and masks to a score for each class and pixel.

Letters: N images, Q queries, K classes, h and w cells of the masks, H and W
pixels of the result, S pixels along a side of a cell.
"""

import torch
import torch.nn.functional as F

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
    classes = cls_logits.float().softmax(-1)[..., :-1].transpose(1, 2)
    scale = _whole_scale(mask_logits.shape[-2:], size)
    with torch.autocast(mask_logits.device.type, enabled=False):
        return torch.stack(
            [
                _sum_in_strips(of_class, logits.float(), scale)
                if scale
                else _sum_at_once(of_class, logits.float(), size)
                for of_class, logits in zip(classes, mask_logits, strict=True)
            ]
        )


def _whole_scale(cells, size):
    """How many pixels make a cell's side, 0 if that is no whole number."""
    scale = size[0] // cells[0]
    return scale if size == (cells[0] * scale, cells[1] * scale) else 0


def _sum_at_once(classes, logits, size):
    masks = F.interpolate(
        logits[None], size=size, mode='bilinear', align_corners=False
    )
    masks = masks[0].sigmoid_().flatten(1)  # (Q, H * W)
    return (classes @ masks).unflatten(1, size)


def _sum_in_strips(classes, logits, scale):
    """As :func:`_sum_at_once`, for a whole number of pixels a cell.

    Pixel p of each cell lies at the same place between two cells: S * S
    maps of the size of ``logits``, each a blend of ``logits`` with itself
    moved by one cell, hold all pixels. Only the K sums are put in order.

    Args:
        classes (Tensor): (K, Q).
        logits (Tensor): (Q, h, w).
        scale (int): S.

    Returns:
        Tensor: (K, h * S, w * S).
    """
    queries, height, width = logits.shape
    padded = F.pad(logits[None], (1, 1, 1, 1), mode='replicate')[0]
    scores = logits.new_empty(len(classes), height, scale, width, scale)
    rows = height
    if not logits.is_cuda:
        rows = max(1, _STRIP_BYTES // (4 * queries * width))
    places = [_place(p, scale) for p in range(scale)]
    for top in range(0, height, rows):
        bottom = min(top + rows, height)
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
                scores[:, top:bottom, y, :, x] = sums.unflatten(1, (-1, width))
    return scores.view(len(classes), height * scale, width * scale)


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
