"""Checks and conversion of the arguments of refiners."""

import numpy as np
import torch

from clouds_mmseg.utils.errors import UserError


def check_choice(owner, name, value, choices):
    """Raise unless an argument is one of some words.

    Args:
        owner (object): Whose argument it is.
        name (str): The argument.
        value (object): What was given.
        choices (Sequence[str]): What may be given.

    Raises:
        UserError: Names all of these.
    """
    if value not in choices:
        raise UserError(
            f'{type(owner).__name__}: {name} must be one of '
            f'{", ".join(choices)}; got {value!r}.'
        )


def check_range(owner, name, value, *, low, high=None, whole=False):
    """Raise unless an argument is a number between two bounds.

    Args:
        owner (object): Whose argument it is.
        name (str): The argument.
        value (object): What was given.
        low (float): The smallest value allowed.
        high (float | None): The largest value allowed; None for no bound.
        whole (bool): Only whole numbers are allowed.

    Raises:
        UserError: Names all of these.
    """
    kinds = int if whole else (int, float)
    if (
        isinstance(value, kinds)
        and not isinstance(value, bool)
        and value >= low
        and (high is None or value <= high)
    ):
        return
    kind = 'a whole number' if whole else 'a number'
    bounds = f'of at least {low}' if high is None else f'in [{low}, {high}]'
    raise UserError(
        f'{type(owner).__name__}: {name} must be {kind} {bounds}; got '
        f'{value!r}.'
    )


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
