"""Images in which a model failed."""

import io

import numpy as np
from PIL import Image

# In 1/255: a constant image may have gained some rounding on its way through
# a decoder.
_FLAT = 3


def blank_reason(image):
    """Say why an image is blank.

    Args:
        image (np.ndarray): (H, W, 3) RGB, uint8 or float in [0, 1].

    Returns:
        str | None: ``'nan'`` (a number overflowed), ``'black'`` (as safety
        checkers leave behind), ``'constant'``, or None for a picture.
    """
    if image.dtype != np.uint8:
        if not np.isfinite(image).all():
            return 'nan'
        image = to_uint8(image)
    # (3,): each channel on its own, so that a plain red is constant too.
    spread = np.ptp(image.reshape(-1, 3), axis=0).max()
    if spread > _FLAT:
        return None
    return 'black' if image.max() <= _FLAT else 'constant'


def to_uint8(image):
    """Round a float image (H, W, 3) in [0, 1] to uint8; uint8 passes."""
    if image.dtype == np.uint8:
        return image
    return np.round(np.clip(image, 0, 1) * 255).astype(np.uint8)


def encode_png(image):
    """Encode (H, W, 3) uint8 RGB or (H, W) uint8 as PNG.

    Returns:
        bytes: In memory, because Pillow reports a full disk without saying
        that the disk is full.
    """
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, format='PNG', compress_level=4)
    return stream.getvalue()
