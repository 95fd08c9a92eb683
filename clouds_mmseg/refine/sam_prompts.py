"""Prompts for SAM: connected components of a label map and their points."""

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


POINT_MODES = ('random', 'center', 'largest_component')
# How far from its centre the mode 'center' looks for points, in pixels.
CENTER_RADIUS = 10


def erode(mask, size):
    """Shrink a mask; what lies outside of the picture counts as background.

    Args:
        mask (np.ndarray): (H, W) bool.
        size (int): Side of the square structuring element in pixels; 0 and 1
            change nothing.

    Returns:
        np.ndarray: (H, W) bool.
    """
    if size <= 1:
        return mask
    return ndimage.binary_erosion(mask, structure=np.ones((size, size)))


def sample_points(mask, num_points, ranks, *, mode='random', erosion=0):
    """Choose points inside of one component, without repetition.

    The semantics are those of the official CLOUDS code
    (``my_utils/mask_utils.py``), but for ``largest_component``: there it
    takes the component that was numbered last.

    Every pixel has a random rank, and the lowest ranks of the component are
    its points: as even a choice as any, and one that stays the same when
    other pixels join or leave the component. What SAM answered can then be
    kept until a point itself is lost.

    Args:
        mask (np.ndarray): (H, W) bool, one component.
        num_points (int): How many points.
        ranks (np.ndarray): (H, W) float, drawn independently.
        mode (str): Where they may lie: ``random`` anywhere in the mask;
            ``center`` within 10 pixels of the centre of mass of its largest
            part; ``largest_component`` anywhere in its largest part. A
            component has several parts only after an erosion.
        erosion (int): Side of the square by which the mask is shrunk first,
            which keeps points off the borders; 0 for none. The official
            code takes 3 where it erodes.

    Returns:
        np.ndarray | None: (num_points, 2) int64, (y, x) in pixels, of
        ascending rank; None if there are fewer than ``num_points`` places
        for them: such a component gives no prompt.
    """
    mask = erode(mask, erosion)
    if mode != 'random':
        mask = _largest_part(mask)
    yx = np.argwhere(mask)
    if mode == 'center' and len(yx):
        distance = np.linalg.norm(yx - yx.mean(axis=0), axis=1)
        yx = yx[distance < CENTER_RADIUS]
    if len(yx) < num_points:
        return None
    ranks = ranks[tuple(yx.T)]
    lowest = np.argpartition(ranks, num_points - 1)[:num_points]
    return yx[lowest[ranks[lowest].argsort()]]


def _largest_part(mask):
    parts, count = ndimage.label(mask)
    if count < 2:
        return mask
    areas = np.bincount(parts.ravel())
    return parts == 1 + areas[1:].argmax()


def sample_prompts(
    components, shape, num_points, seed, *, mode='random', erosion=0
):
    """Choose the points of all components of an image.

    Args:
        components (list[Component]): Of a label map.
        shape (tuple[int, int]): (H, W) of that map.
        num_points (int): Points for each component.
        seed (Sequence[int]): Of the pixels' ranks. The points of a component
            depend on it and on the component's pixels alone.
        mode (str): See :func:`sample_points`.
        erosion (int): See :func:`sample_points`.

    Returns:
        tuple[np.ndarray, np.ndarray]: Points (K, num_points, 2) float32,
        (x, y) in pixels, and the classes (K,) int64 of the components they
        belong to: one without room for its points has none.
    """
    ranks = np.random.default_rng(seed).random(shape)
    points, classes = [], []
    for component in components:
        box = component.box
        chosen = sample_points(
            component.mask, num_points, ranks[box], mode=mode, erosion=erosion
        )
        if chosen is not None:
            yx = chosen + (box[0].start, box[1].start)
            points.append(yx[:, ::-1])
            classes.append(component.label)
    return (
        np.array(points, np.float32).reshape(len(classes), num_points, 2),
        np.array(classes, np.int64),
    )
