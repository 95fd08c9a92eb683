"""From a label map to its connected components, which SAM is asked about."""

import numpy as np
from scipy import ndimage


def find_components(label, min_area, ignore_index=255):
    """Split the region of each class into its connected parts.

    Pixels are connected by their sides, not by their corners. Semantics of
    the official CLOUDS code (``separate_shapes_list``); CLOUDS takes a
    ``min_area`` of 5,000 pixels.

    Args:
        label (np.ndarray): (H, W) integers.
        min_area (int): Only parts of more pixels than this are kept.
        ignore_index (int): The label that is no class.

    Returns:
        tuple[np.ndarray, np.ndarray]: Classes (N,) int64 in ascending order
        and masks (N, H, W) bool; parts of one class in the order of their
        first pixels, row by row.

    Raises:
        ValueError: If the label is not a map of integers.
    """
    label = np.asarray(label)
    if label.ndim != 2 or label.dtype.kind not in 'iu':
        raise ValueError(
            'a label map must have the shape (H, W) and an integer dtype, '
            f'got {label.shape} {label.dtype}'
        )
    classes, masks = [], []
    for value in np.unique(label):
        if value == ignore_index:
            continue
        parts, _ = ndimage.label(label == value)
        areas = np.bincount(parts.ravel())
        for part in 1 + np.flatnonzero(areas[1:] > min_area):
            classes.append(value)
            masks.append(parts == part)
    return (
        np.array(classes, np.int64),
        np.array(masks, bool).reshape(-1, *label.shape),
    )
