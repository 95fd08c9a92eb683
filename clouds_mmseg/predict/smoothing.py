"""Smoothing of the scores of a video over time.

Letters: K classes, H and W of a frame.
"""

import cv2
import numpy as np
import torch
from torch import Tensor

from clouds_mmseg.utils.errors import UserError

# Frames are compared as grey thumbnails of this width and height.
_THUMBNAIL = (64, 36)
# Mean absolute difference of two thumbnails above which the scene has
# changed, of 255 grey values.
CUT = 30.0


class TemporalSmoothing:
    """Exponential moving average of scores, which begins anew at scene cuts.

    The scores of a frame are ``weight`` times those of the frame before,
    smoothed, plus ``1 - weight`` times its own. A scene cut is where the mean
    absolute difference to the frame before, both as grey images of 64x36
    pixels, is above :data:`CUT` of 255.

    Args:
        weight: In [0, 1); 0 smoothes nothing.

    Attributes:
        cuts: Number of scene cuts so far.

    Raises:
        UserError: ``weight`` is out of range.
    """

    def __init__(self, weight: float):
        if not 0 <= weight < 1:
            raise UserError(
                f'smooth must lie in [0, 1): the share of the frames before, '
                f'got {weight}'
            )
        self.weight = weight
        self.cuts = 0
        self._thumbnail: np.ndarray | None = None
        self._size: tuple[int, ...] = ()
        # First row of a strip -> its scores.
        self._scores: dict[int, Tensor] = {}

    def begin(self, image: np.ndarray) -> None:
        """Begin a frame.

        Args:
            image: (H, W, 3) uint8 RGB.
        """
        small = cv2.resize(image, _THUMBNAIL, interpolation=cv2.INTER_AREA)
        small = cv2.cvtColor(small, cv2.COLOR_RGB2GRAY).astype(np.float32)
        before, self._thumbnail = self._thumbnail, small
        if before is None:
            cut = False
        else:
            cut = bool(np.abs(small - before).mean() > CUT)
        self.cuts += cut
        if cut or self._size != image.shape:
            self._scores.clear()
        self._size = image.shape

    def __call__(self, scores: Tensor, first: int = 0) -> Tensor:
        """Smooth a strip of scores of the frame that began last.

        Args:
            scores: (K, rows, W).
            first: Its first row; the strips of each frame are the same.

        Returns:
            Same shape.
        """
        before = self._scores.get(first)
        if before is not None:
            scores = torch.lerp(scores, before, self.weight)
        # A copy: the strip is part of a buffer that is used again.
        self._scores[first] = scores.clone()
        return scores
