"""Prompts for SAM: connected components of a label map and their points."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import ndimage

POINT_MODES = ('random', 'center', 'largest_component')
# Radius around the centre within which mode 'center' samples, in pixels.
CENTER_RADIUS = 10


class Component(NamedTuple):
    """A connected component of the region of one class.

    Attributes:
        label: The class.
        box: Bounding box: rows and columns of the label map.
        mask: (h, w) bool, inside of the box.
    """

    label: int
    box: tuple[slice, slice]
    mask: np.ndarray

    def full_mask(self, shape: tuple[int, int]) -> np.ndarray:
        """Return the mask at the size (H, W) of the label map, bool."""
        full = np.zeros(shape, bool)
        full[self.box] = self.mask
        return full


def find_components(
    label: np.ndarray, min_area: float, ignore_index: int = 255
) -> list[Component]:
    """Find the connected components of each class in a label map.

    Pixels are connected by their sides, not by their corners. Semantics of
    the official CLOUDS code (``separate_shapes_list``), where ``min_area`` is
    5,000 pixels. All classes are labelled in one pass.

    Args:
        label: (H, W) integers.
        min_area: Only components of more pixels than this are kept.
        ignore_index: Pixels of this label belong to no component.

    Returns:
        Components by class in ascending order; those of one class in the
        order of their first pixels, row by row.

    Raises:
        ValueError: If the label is not a map of integers.
    """
    label = np.asarray(label)
    if label.ndim != 2 or label.dtype.kind not in 'iu':
        raise ValueError(
            'a label map must have the shape (H, W) and an integer dtype, '
            f'got {label.shape} {label.dtype}'
        )
    # Slow to import, and needed only in runs with SAM.
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
    # The sort is stable: components are numbered by their first pixels.
    return sorted(components, key=lambda component: component.label)


def sample_prompts(
    components: list[Component],
    shape: tuple[int, int],
    num_points: int,
    seed: Sequence[int],
    *,
    mode: str = 'random',
    erosion: int = 0,
    boxes: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """Sample the points of all components of an image.

    Args:
        components: Of a label map.
        shape: (H, W) of that map.
        num_points: Points for each component; 0 for none.
        seed: Of the pixels' ranks. The points of a component depend only on
            the seed and on the component's pixels.
        mode: See :func:`sample_points`.
        erosion: See :func:`sample_points`.
        boxes: Add the two corners of each component's bounding box, top left
            and bottom right, which lie inside of it.

    Returns:
        Points (N, num_points, 2) float32, (x, y) in pixels, two more of them
        with boxes, and the classes (N,) int64 of their components.
        Components that are too small for their points are left out.
    """
    ranks = np.random.default_rng(seed).random(shape)
    points, classes = [], []
    for component in components:
        box = component.box
        chosen = np.zeros((0, 2), np.int64)
        if num_points:
            chosen = sample_points(
                component.mask,
                num_points,
                ranks[box],
                mode=mode,
                erosion=erosion,
            )
        if chosen is None:
            continue
        yx = chosen + (box[0].start, box[1].start)
        if boxes:
            corners = [[s.start for s in box], [s.stop - 1 for s in box]]
            yx = np.concatenate([yx, corners])
        points.append(yx[:, ::-1])
        classes.append(component.label)
    return (
        np.array(points, np.float32).reshape(
            len(classes), num_points + 2 * boxes, 2
        ),
        np.array(classes, np.int64),
    )


def erode(mask: np.ndarray, size: int) -> np.ndarray:
    """Erode a mask; outside of the array is background.

    Args:
        mask: (H, W) bool.
        size: Side of the square structuring element in pixels; 0 and 1
            change nothing.

    Returns:
        (H, W) bool.
    """
    if size <= 1:
        return mask
    return ndimage.binary_erosion(mask, structure=np.ones((size, size)))


def sample_points(
    mask: np.ndarray,
    num_points: int,
    ranks: np.ndarray,
    *,
    mode: str = 'random',
    erosion: int = 0,
) -> np.ndarray | None:
    """Sample points inside of one component, without repetition.

    The semantics are those of the official CLOUDS code
    (``my_utils/mask_utils.py``), except for ``largest_component``: there it
    takes the component that was numbered last.

    Every pixel has a random rank, and the points are the pixels of the
    component with the lowest ranks. This is a uniform sample, and it stays
    the same when other pixels join or leave the component: SAM's cached
    prediction is valid until a point itself leaves.

    Args:
        mask: (H, W) bool, one component.
        num_points: Number of points.
        ranks: (H, W) float, drawn independently.
        mode: Where the points lie: ``random`` anywhere in the mask;
            ``center`` within 10 pixels of the centre of mass of its largest
            part; ``largest_component`` anywhere in its largest part. A
            component has several parts only after an erosion.
        erosion: Side of the square structuring element that the mask is
            eroded with first, which keeps points off the borders; 0 for
            none. The official code uses 3 where it erodes.

    Returns:
        (num_points, 2) int64, (y, x) in pixels, of ascending rank; None if
        fewer than ``num_points`` pixels are left: such a component gives no
        prompt.
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
