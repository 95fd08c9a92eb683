"""The border of the refiners: tensors in, arrays inside."""

import numpy as np
import torch


def as_rgb_array(image):
    """Bring an image to the layout that SAM and scikit-image read.

    Args:
        image (Tensor): (3, H, W) uint8 RGB, any device.

    Returns:
        np.ndarray: (H, W, 3) uint8, contiguous.

    Raises:
        ValueError: If it is anything else.
    """
    if image.dtype != torch.uint8 or image.ndim != 3 or len(image) != 3:
        raise ValueError(
            'A refiner takes an image of shape (3, H, W) and dtype uint8, '
            f'got {tuple(image.shape)} and {image.dtype}.'
        )
    return np.ascontiguousarray(image.permute(1, 2, 0).cpu().numpy())


def check_label(label, image):
    """Raise unless the label is one of that image.

    Args:
        label (Tensor): (H, W) int64.
        image (Tensor): (3, H, W).

    Raises:
        ValueError: If shape or dtype differ.
    """
    if label.shape != image.shape[1:] or label.dtype != torch.int64:
        raise ValueError(
            f'The label of an image of shape {tuple(image.shape)} must be '
            f'(H, W) int64 of the same size, got {tuple(label.shape)} and '
            f'{label.dtype}.'
        )
