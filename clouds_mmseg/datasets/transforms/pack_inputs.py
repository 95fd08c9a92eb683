"""The end of a pipeline."""

import numpy as np
import torch
from mmengine.structures import PixelData
from mmseg.datasets import PackSegInputs
from mmseg.registry import TRANSFORMS


@TRANSFORMS.register_module()
class PackDGInputs(PackSegInputs):
    """``PackSegInputs`` that always hands on domain and name of a sample.

    Args:
        domain (str, optional): Used instead of the domain of the dataset.
        **kwargs: See :class:`mmseg.datasets.PackSegInputs`.
    """

    def __init__(self, domain=None, **kwargs):
        super().__init__(**kwargs)
        self.domain = domain
        if isinstance(self.meta_keys, str):
            self.meta_keys = (self.meta_keys,)
        keys = (*self.meta_keys, 'domain', 'sample_name', 'image_range')
        self.meta_keys = (*dict.fromkeys(keys),)

    def transform(self, results):
        """Return ``inputs`` ((3, H, W) uint8) and ``data_samples``.

        ``data_samples.domain`` is a str in its metainfo. Behind
        ``KeepCleanView``, ``data_samples.clean_img`` is a PixelData of
        (3, H, W) uint8 in the channel order of ``inputs``.

        Raises:
            ValueError: Neither the dataset nor the argument names a domain,
                or the clean view has another size than the image.
        """
        if self.domain is not None:
            results['domain'] = self.domain
        if not results.get('domain'):
            raise ValueError(
                'PackDGInputs: the sample of '
                f'{results.get("img_path")} has no domain. Use a dataset of '
                'clouds_mmseg, or give PackDGInputs(domain=...).'
            )
        packed = super().transform(results)
        if 'clean_img' in results:
            packed['data_samples'].clean_img = self._clean_view(results)
        return packed

    @staticmethod
    def _clean_view(results):
        clean, shape = results['clean_img'], results['img'].shape
        if clean.shape != shape:
            raise ValueError(
                f'PackDGInputs: the clean view of {results.get("img_path")} '
                f'is {clean.shape}, the image {shape}. KeepCleanView must '
                'stand after the steps that resize, crop or pad.'
            )
        planes = np.ascontiguousarray(clean.transpose(2, 0, 1))
        return PixelData(data=torch.from_numpy(planes))

    def __repr__(self):
        return (
            f'{type(self).__name__}(domain={self.domain!r}, '
            f'meta_keys={self.meta_keys})'
        )
