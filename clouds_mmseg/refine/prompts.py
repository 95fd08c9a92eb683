"""From a label map to its connected components, which SAM is asked about."""

from typing import NamedTuple

import numpy as np
from scipy import ndimage


class Component(NamedTuple):
    """A connected part of the region of one class.

    Attributes:
        label (int): The class.
        box (tuple[slice, slice]): Rows and columns of the label map that
            hold it; no smaller box does.
        mask (np.ndarray): (h, w) bool, of that box.
    """

    label: int
    box: tuple[slice, slice]
    mask: np.ndarray

    def full_mask(self, shape):
        """The mask at the size of the label map.

        Args:
            shape (tuple[int, int]): (H, W).

        Returns:
            np.ndarray: (H, W) bool.
        """
        full = np.zeros(shape, bool)
        full[self.box] = self.mask
        return full


def find_components(label, min_area, ignore_index=255):
    """Split the region of each class into its connected parts.

    Pixels are connected by their sides, not by their corners. Semantics of
    the official CLOUDS code (``separate_shapes_list``); CLOUDS takes a
    ``min_area`` of 5,000 pixels. All classes are split in one pass, and
    what follows is done inside of each part's box.

    Args:
        label (np.ndarray): (H, W) integers.
        min_area (int): Only parts of more pixels than this are kept.
        ignore_index (int): The label that is no class.

    Returns:
        list[Component]: By class in ascending order; parts of one class in
        the order of their first pixels, row by row.

    Raises:
        ValueError: If the label is not a map of integers.
    """
    label = np.asarray(label)
    if label.ndim != 2 or label.dtype.kind not in 'iu':
        raise ValueError(
            'a label map must have the shape (H, W) and an integer dtype, '
            f'got {label.shape} {label.dtype}'
        )
    # Slow to import, and only runs with SAM come here.
    from skimage import measure

    parts, count = measure.label(
        label, background=ignore_index, return_num=True, connectivity=1
    )
    areas = np.bincount(parts.ravel(), minlength=count + 1)
    areas[0] = 0
    large = np.flatnonzero(areas > min_area)
    numbers = np.zeros(count + 1, np.int32)
    numbers[large] = np.arange(1, len(large) + 1)
    parts = numbers[parts]
    components = []
    for number, box in enumerate(ndimage.find_objects(parts), 1):
        mask = parts[box] == number
        value = label[box].flat[mask.argmax()]
        components.append(Component(int(value), box, mask))
    # Stable: parts are numbered by their first pixels.
    return sorted(components, key=lambda component: component.label)
