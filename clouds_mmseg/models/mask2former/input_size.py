"""The size of the image that some features were made of.

MMSegmentation gives ``predict`` no image, only metainfo that was written in
several places: ``img_shape`` is the image before padding in whole mode and
the crop in slide mode, ``pad_shape`` is the padded image in both, None or
absent. The result has to have the size of what the backbone has seen.
"""

import math


def input_size(metas, feature_size, stride, *, slide=False):
    """Find height and width of the backbone's input.

    Of the sizes that the metainfo names the first is taken that fits the
    features. In slide mode the crop's is asked first, as a padded image may
    be less than a stride larger; in whole mode the padded one.

    Args:
        metas (list[dict]): Metainfo of each image.
        feature_size (tuple[int, int]): Of the finest map.
        stride (int): Of the finest map.
        slide (bool): Whether crops are being predicted.

    Returns:
        tuple[int, int]: Height and width in pixels.

    Raises:
        ValueError: If no size fits.
    """
    candidates = [_cropped(metas), *_padded(metas), _greatest(metas)]
    if not slide:
        candidates = candidates[1:]
    candidates = [size for size in candidates if size is not None]
    for size in candidates:
        if all(
            # Some backbones round a side up, some down.
            side // stride <= cells <= math.ceil(side / stride)
            for side, cells in zip(size, feature_size, strict=True)
        ):
            return size
    raise ValueError(
        f'features of size {tuple(feature_size)} at stride {stride} fit none '
        f'of the sizes in the metainfo, {candidates}: give the size of the '
        "network's input as img_shape, or the head's true strides"
    )


def _side_pair(shape):
    """Height and width of (H, W) or (H, W, C), or None."""
    return None if shape is None else (int(shape[0]), int(shape[1]))


def _cropped(metas):
    # slide_inference writes the crop's shape into the first only.
    return _side_pair(metas[0].get('img_shape'))


def _padded(metas):
    sizes = [_side_pair(meta.get('pad_shape')) for meta in metas]
    for meta in metas:
        size = _side_pair(meta.get('img_shape'))
        padding = meta.get('img_padding_size', meta.get('padding_size'))
        if size is not None and padding is not None:
            left, right, top, bottom = padding
            sizes.append((size[0] + top + bottom, size[1] + left + right))
    return sizes


def _greatest(metas):
    sizes = [_side_pair(meta.get('img_shape')) for meta in metas]
    sizes = [size for size in sizes if size is not None]
    if not sizes:
        return None
    return tuple(max(sides) for sides in zip(*sizes, strict=True))
