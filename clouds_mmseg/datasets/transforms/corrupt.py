"""Corruption of test images as they are read."""

from pathlib import Path

import numpy as np
from mmcv.transforms import BaseTransform
from mmseg.registry import TRANSFORMS

from clouds_mmseg.datasets.corrupt import (
    corrupt_image,
    image_seed,
    load_library,
)
from clouds_mmseg.utils.corruptions import check_choice


@TRANSFORMS.register_module()
class CorruptImage(BaseTransform):
    """Apply a common corruption, equal in each run.

    The random numbers depend on the name of the file and the arguments only,
    so that the images equal those that ``tools/make_corruptions.py`` writes
    with the same seed. Stands behind ``LoadSegImage``. Not meant for
    training: the benchmark asks for robustness against what was not seen.

    Args:
        corruption (str): A name of
            :data:`clouds_mmseg.utils.corruptions.CORRUPTIONS`.
        severity (int): 1..5.
        seed (int): Of the whole set.

    Raises:
        UserError: The name or severity is unknown, or the package that
            corrupts is not installed.
    """

    def __init__(self, corruption, severity, seed=0):
        check_choice([corruption], [severity])
        load_library()
        self.corruption = corruption
        self.severity = severity
        self.seed = seed

    def transform(self, results):
        """Replace ``img`` ((H, W, 3) uint8, BGR).

        Raises:
            UserError: The image is too small.
        """
        name = Path(results['img_path']).stem
        corrupted = corrupt_image(
            np.ascontiguousarray(results['img'][..., ::-1]),
            self.corruption,
            self.severity,
            seed=image_seed(name, self.corruption, self.severity, self.seed),
        )
        results['img'] = np.ascontiguousarray(corrupted[..., ::-1])
        return results

    def __repr__(self):
        return (
            f'{type(self).__name__}({self.corruption!r}, {self.severity}, '
            f'seed={self.seed})'
        )
