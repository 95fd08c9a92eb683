"""Pseudo labels refined by SAM, one component after the other."""

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


def sample_uncertain_points(mask, count, ranks):
    """The pixels (count, 2), (x, y), of the lowest ranks; or None."""
    yx = np.argwhere(mask)
    if len(yx) < count:
        return None
    chosen = ranks[mask].argsort()[:count]
    return yx[chosen, ::-1].astype(np.float32)


def refine(predictor, image, label, *, min_area, seed, count=5, ignore=255):
    """Refine a label.

    Args:
        predictor (SamPredictor): Of segment-anything.
        image (np.ndarray): (H, W, 3) uint8 RGB.
        label (np.ndarray): (H, W) int.
        min_area (int): Components must be larger.
        seed (list[int]): Of the pixels' ranks.
        count (int): Points of a component.
        ignore (int): The label that is no class.

    Returns:
        np.ndarray: (H, W) int64; ``label`` itself if there is no component.
    """
    predictor.set_image(image)
    chosen = []
    classes, masks = find_components(label, min_area, ignore)
    ranks = np.random.default_rng(seed).random(label.shape)
    for value, mask in zip(classes, masks, strict=True):
        points = sample_uncertain_points(mask, count, ranks)
        if points is not None:
            found, quality, _ = predictor.predict(points, np.ones(count))
            chosen.append((value, found[quality.argmax()]))
    if not chosen:
        return label
    cover = sum(mask.astype(int) for _, mask in chosen)
    refined = np.full(label.shape, ignore, np.int64)
    for value, mask in chosen:
        refined[mask & (cover == 1)] = value
    return refined
