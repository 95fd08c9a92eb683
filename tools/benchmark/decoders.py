"""Image decoders that MMCV does not have, for comparison."""

import cv2
import numpy as np
import torch
from mmcv.transforms import BaseTransform
from mmseg.registry import TRANSFORMS
from torchvision.io import ImageReadMode, decode_image


def read_numpy(path: str) -> np.ndarray:
    """Read a ``.npy`` file.

    Args:
        path: The file.

    Returns:
        (H, W, 3) uint8, BGR.
    """
    return np.load(path)


def read_torchvision(path: str) -> np.ndarray:
    """Decode an image with ``torchvision.io``.

    Args:
        path: The file.

    Returns:
        (H, W, 3) uint8, BGR.
    """
    payload = torch.from_numpy(np.fromfile(path, np.uint8))
    rgb = decode_image(payload, ImageReadMode.RGB).permute(1, 2, 0).numpy()
    return cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR)


READERS = dict(numpy=read_numpy, torchvision=read_torchvision)


@TRANSFORMS.register_module()
class LoadToCompare(BaseTransform):
    """Read an image as ``LoadSegImage`` does, with another decoder.

    Args:
        decoder: One of :data:`READERS`.
    """

    def __init__(self, decoder: str):
        self.read = READERS[decoder]

    def transform(self, results: dict) -> dict:
        """Add ``img`` ((H, W, 3) uint8, BGR), ``img_shape``, ``ori_shape``."""
        results['img'] = self.read(results['img_path'])
        results['img_shape'] = results['img'].shape[:2]
        results['ori_shape'] = results['img'].shape[:2]
        return results
