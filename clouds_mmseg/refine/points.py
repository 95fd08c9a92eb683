"""Choose the points of a component that SAM is asked about."""

import numpy as np
from scipy import ndimage

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
