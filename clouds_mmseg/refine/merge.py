"""From SAM's answers back to one label map.

Semantics of the official CLOUDS code (``my_utils/mask_utils.py``). There, a
component without a prompt shifts the classes of all that follow; here every
mask comes with its own class.

Letters: N components, M answers to one prompt, H and W pixels.
"""

import torch


def select_best(masks, quality):
    """Keep the answer that SAM trusts most.

    Args:
        masks (Tensor): (N, M, H, W).
        quality (Tensor): (N, M), the predicted quality; the first of equals
            counts.

    Returns:
        Tensor: (N, H, W), dtype of ``masks``.
    """
    index = torch.arange(len(masks), device=masks.device)
    return masks[index, quality.argmax(dim=1)]


def drop_overlaps(masks):
    """Take pixels that several masks claim away from all of them.

    Args:
        masks (Tensor): (N, H, W) bool.

    Returns:
        Tensor: (N, H, W) bool, a new one.
    """
    # Of 16 bits: the sum of booleans is int64, four times the memory.
    return masks & (masks.sum(dim=0, dtype=torch.int16) <= 1)


def union_per_class(masks, classes):
    """Join the masks of each class.

    Args:
        masks (Tensor): (N, H, W) bool.
        classes (Tensor): (N,) int64, the class of each mask.

    Returns:
        tuple[Tensor, Tensor]: Classes (C,) int64 in ascending order and
        their masks (C, H, W) bool. A class whose masks are all empty is
        among them.
    """
    labels, index = classes.unique(return_inverse=True)
    joined = masks.new_zeros((len(labels), *masks.shape[1:]))
    for mask, place in zip(masks, index.tolist(), strict=True):
        joined[place] |= mask
    return labels, joined


def paint(masks, classes, ignore_index=255):
    """Draw masks into a label map; a later one covers an earlier one.

    Args:
        masks (Tensor): (N, H, W) bool.
        classes (Tensor): (N,) int64.
        ignore_index (int): Label of pixels that no mask covers.

    Returns:
        Tensor: (H, W) int64.
    """
    label = torch.full(
        masks.shape[1:], ignore_index, dtype=torch.int64, device=masks.device
    )
    for mask, value in zip(masks, classes.tolist(), strict=True):
        label.masked_fill_(mask, value)
    return label
