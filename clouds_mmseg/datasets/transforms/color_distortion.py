"""MMSegmentation's colour augmentation by look-up tables."""

import cv2
import mmcv
import numpy as np
from mmseg.datasets import PhotoMetricDistortion
from mmseg.registry import TRANSFORMS

_VALUES = np.arange(256, dtype=np.uint8)


@TRANSFORMS.register_module()
class FastPhotoMetricDistortion(PhotoMetricDistortion):
    """mmseg's ``PhotoMetricDistortion``: the same pixels, faster.

    Each of its changes maps one 8-bit value to another, so 256 values are
    computed as mmseg does, and the pixels are looked up. It draws the same
    random numbers in the same order. Images of other types are left to mmseg.

    Args:
        **kwargs: Of mmseg's class.
    """

    def convert(
        self, img: np.ndarray, alpha: float = 1, beta: float = 0
    ) -> np.ndarray:
        """Return ``img * alpha + beta``, clipped to 0..255, as uint8.

        Args:
            img: (H, W) or (H, W, C).
            alpha: Factor.
            beta: Summand.
        """
        if img.dtype != np.uint8:
            return super().convert(img, alpha, beta)
        table = super().convert(_VALUES, alpha, beta)
        # OpenCV looks up one channel twice as fast as three.
        pixels = np.ascontiguousarray(img).reshape(len(img), -1)
        return cv2.LUT(pixels, table).reshape(img.shape)

    def saturation(self, img: np.ndarray) -> np.ndarray:
        """Scale the saturation of (H, W, 3) BGR, in one of two cases."""
        if img.dtype != np.uint8:
            return super().saturation(img)
        if np.random.randint(2):
            factor = np.random.uniform(
                self.saturation_lower, self.saturation_upper
            )
            table = super().convert(_VALUES, factor)
            img = _change(img, 1, table)
        return img

    def hue(self, img: np.ndarray) -> np.ndarray:
        """Turn the hue of (H, W, 3) BGR, in one of two cases."""
        if img.dtype != np.uint8:
            return super().hue(img)
        if np.random.randint(2):
            turn = np.random.randint(-self.hue_delta, self.hue_delta)
            table = (_VALUES.astype(int) + turn) % 180
            img = _change(img, 0, table.astype(np.uint8))
        return img


def _change(img, channel, table):
    """Look up one channel of HSV, (256,), in (H, W, 3) BGR."""
    hsv = mmcv.bgr2hsv(img)
    values = cv2.LUT(cv2.extractChannel(hsv, channel), table)
    return mmcv.hsv2bgr(cv2.insertChannel(values, hsv, channel))
