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
        return cv2.LUT(img, super().convert(_VALUES, alpha, beta))

    def saturation(self, img: np.ndarray) -> np.ndarray:
        """Scale the saturation of (H, W, 3) BGR, in one of two cases."""
        if img.dtype != np.uint8:
            return super().saturation(img)
        if np.random.randint(2):
            factor = np.random.uniform(
                self.saturation_lower, self.saturation_upper
            )
            table = super().convert(_VALUES, factor)
            img = _look_up(img, saturation=table)
        return img

    def hue(self, img: np.ndarray) -> np.ndarray:
        """Turn the hue of (H, W, 3) BGR, in one of two cases."""
        if img.dtype != np.uint8:
            return super().hue(img)
        if np.random.randint(2):
            turn = np.random.randint(-self.hue_delta, self.hue_delta)
            table = (_VALUES.astype(int) + turn) % 180
            img = _look_up(img, hue=table.astype(np.uint8))
        return img


def _look_up(img, hue=_VALUES, saturation=_VALUES):
    """Change hue and saturation of (H, W, 3) BGR by a table each, (256,)."""
    hsv = mmcv.bgr2hsv(img)
    tables = np.stack([hue, saturation, _VALUES], axis=-1)
    return mmcv.hsv2bgr(cv2.LUT(hsv, tables[None]))
