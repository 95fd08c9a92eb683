"""Pseudo labels mended by SAM, one component after the other."""

import numpy as np
from scipy import ndimage


def find_components(label, min_area, ignore=255):
    """Classes and full-size masks of the connected parts of each class."""
    classes, masks = [], []
    for value in np.unique(label):
        if value == ignore:
            continue
        parts, count = ndimage.label(label == value)
        for part in range(1, count + 1):
            mask = parts == part
            if mask.sum() > min_area:
                classes.append(value)
                masks.append(mask)
    return classes, masks


def draw_points(mask, count, rng):
    """Points (count, 2) float32, (x, y), inside of a mask; or None."""
    yx = np.argwhere(mask)
    if len(yx) < count:
        return None
    chosen = rng.choice(len(yx), count, replace=False)
    return yx[chosen, ::-1].astype(np.float32)


def refine(predictor, image, label, *, min_area, seed, count=5, ignore=255):
    """Mend a label.

    Args:
        predictor (SamPredictor): Of segment-anything.
        image (np.ndarray): (H, W, 3) uint8 RGB.
        label (np.ndarray): (H, W) int.
        min_area (int): Components must be larger.
        seed (list[int]): Of the points.
        count (int): Points of a component.
        ignore (int): The label that is no class.

    Returns:
        np.ndarray: (H, W) int64; ``label`` itself if there is no component.
    """
    predictor.set_image(image)
    chosen = []
    classes, masks = find_components(label, min_area, ignore)
    for index, mask in enumerate(masks):
        rng = np.random.default_rng([*seed, index])
        points = draw_points(mask, count, rng)
        if points is not None:
            answers, quality, _ = predictor.predict(points, np.ones(count))
            chosen.append((classes[index], answers[quality.argmax()]))
    if not chosen:
        return label
    cover = sum(mask.astype(int) for _, mask in chosen)
    refined = np.full(label.shape, ignore, np.int64)
    for value, mask in chosen:
        refined[mask & (cover == 1)] = value
    return refined
