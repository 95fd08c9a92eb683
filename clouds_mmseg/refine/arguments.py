"""Checks and conversion of the arguments of refiners."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from clouds_mmseg.utils.errors import UserError


def check_choice(
    owner: object, name: str, value: object, choices: Sequence[str]
) -> None:
    """Check that an argument is one of several words.

    Args:
        owner: Object whose constructor has the argument, for the message.
        name: Of the argument.
        value: Of the argument.
        choices: Allowed values.

    Raises:
        UserError: It is not; the message names all four.
    """
    if value not in choices:
        raise UserError(
            f'{type(owner).__name__}: {name} must be one of '
            f'{", ".join(choices)}; got {value!r}.'
        )


def check_range(
    owner: object,
    name: str,
    value: object,
    *,
    low: float,
    high: float | None = None,
    whole: bool = False,
) -> None:
    """Check that an argument is a number between two bounds.

    Args:
        owner: Object whose constructor has the argument, for the message.
        name: Of the argument.
        value: Of the argument.
        low: The smallest value allowed.
        high: The largest value allowed; None for no bound.
        whole: Only whole numbers are allowed.

    Raises:
        UserError: It is not; the message names all of these.
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


def as_rgb_array(image: Tensor) -> np.ndarray:
    """Convert an image to the array layout of SAM and scikit-image.

    Args:
        image: (3, H, W) uint8 RGB, any device.

    Returns:
        (H, W, 3) uint8, contiguous.

    Raises:
        ValueError: If it is anything else.
    """
    if image.dtype != torch.uint8 or image.ndim != 3 or len(image) != 3:
        raise ValueError(
            'A refiner takes an image of shape (3, H, W) and dtype uint8, '
            f'got {tuple(image.shape)} and {image.dtype}.'
        )
    return np.ascontiguousarray(image.permute(1, 2, 0).cpu().numpy())


def check_label(label: Tensor, image: Tensor) -> None:
    """Check that a label map fits its image.

    Args:
        label: (H, W) int64.
        image: (3, H, W).

    Raises:
        ValueError: If shape or dtype differ.
    """
    if label.shape != image.shape[1:] or label.dtype != torch.int64:
        raise ValueError(
            f'The label of an image of shape {tuple(image.shape)} must be '
            f'(H, W) int64 of the same size, got {tuple(label.shape)} and '
            f'{label.dtype}.'
        )
