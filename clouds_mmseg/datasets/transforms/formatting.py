"""Packing of samples, and the clean view for the teacher."""

import io
from typing import Any

import cv2
import numpy as np
import torch
from mmcv.transforms import BaseTransform
from mmengine.structures import PixelData
from mmseg.datasets import PackSegInputs
from mmseg.registry import TRANSFORMS
from PIL import Image

from clouds_mmseg.utils.errors import UserError


@TRANSFORMS.register_module()
class EvaluateAtInputSize(BaseTransform):
    """Compare prediction and label at the resized size.

    mmseg resizes predictions to ``ori_shape`` before the metric. This step
    sets ``ori_shape`` to the size of the resized image. It is placed after
    ``Resize``, which must come after the loading of labels, so that they are
    resized too. The official CLOUDS code evaluates BDD100K, Mapillary and ACDC
    in this way.
    """

    def transform(self, results: dict) -> dict:
        """Set ``ori_shape`` to ``img_shape``.

        Raises:
            UserError: The label does not have the size of the image.
        """
        shape = tuple(results['img_shape'][:2])
        label = results.get('gt_seg_map')
        if label is not None and label.shape != shape:
            raise UserError(
                f'EvaluateAtInputSize: the label is {label.shape}, the image '
                f'{shape} (height, width). LoadSegLabels must stand before '
                'Resize in this pipeline.'
            )
        results['ori_shape'] = shape
        return results

    def __repr__(self) -> str:
        return f'{type(self).__name__}()'


@TRANSFORMS.register_module()
class HalveImage(BaseTransform):
    """Halve an image as Rein and SoMA halve Mapillary's before a test.

    Bicubic with Pillow, then once through a JPEG file of Pillow's default
    quality, as their script writes it. Predictions are still compared at the
    size of the label: :class:`HalveLabels` halves that.
    """

    def transform(self, results: dict) -> dict:
        """Halve ``img`` ((H, W, 3) uint8, BGR); an odd side rounds down."""
        height, width = results['img'].shape[:2]
        size = (max(width // 2, 1), max(height // 2, 1))
        rgb = np.ascontiguousarray(results['img'][..., ::-1])
        stream = io.BytesIO()
        half = Image.fromarray(rgb).resize(size, Image.Resampling.BICUBIC)
        half.save(stream, 'JPEG')
        payload = np.frombuffer(stream.getvalue(), np.uint8)
        results['img'] = cv2.imdecode(payload, cv2.IMREAD_COLOR)
        results['img_shape'] = size[::-1]
        results['halved'] = True
        return results

    def __repr__(self) -> str:
        return f'{type(self).__name__}()'


@TRANSFORMS.register_module()
class HalveLabels(BaseTransform):
    """Halve a label map, and compare predictions with it at that size."""

    def transform(self, results: dict) -> dict:
        """Halve ``gt_seg_map`` (H, W) to the nearest pixels, as Pillow does.

        Sets ``ori_shape``. A sample without label is left as it is.

        Raises:
            UserError: The image was not halved.
        """
        if not results.get('halved'):
            raise UserError(
                'HalveLabels: the image was not halved; HalveImage must stand '
                'before it in the pipeline'
            )
        if 'gt_seg_map' not in results:
            return results
        label = Image.fromarray(results['gt_seg_map'])
        size = (max(label.width // 2, 1), max(label.height // 2, 1))
        label = label.resize(size, Image.Resampling.NEAREST)
        results['gt_seg_map'] = np.array(label)
        results['ori_shape'] = size[::-1]
        return results

    def __repr__(self) -> str:
        return f'{type(self).__name__}()'


@TRANSFORMS.register_module()
class KeepCleanView(BaseTransform):
    """Keep a copy of the image before photometric augmentation.

    The teacher of self-training labels this clean view; the student gets the
    image after all transforms. The step is placed after those that resize or
    crop, and before ``RandomFlip`` and the photometric ones: the teacher's
    label is mirrored like the student's view, so the clean view must not be
    mirrored. ``PackDGInputs`` packs it as ``clean_img``.
    """

    def transform(self, results: dict) -> dict:
        """Add ``clean_img``: a copy of ``img``, (H, W, 3) uint8, BGR.

        Raises:
            UserError: The image was flipped already.
        """
        if results.get('flip'):
            raise UserError(
                'KeepCleanView must stand before RandomFlip in the pipeline: '
                f'the image {results.get("img_path")} is flipped already, '
                'and its label would be mirrored once more'
            )
        results['clean_img'] = results['img'].copy()
        return results

    def __repr__(self) -> str:
        return f'{type(self).__name__}()'


@TRANSFORMS.register_module()
class PackDGInputs(PackSegInputs):
    """``PackSegInputs`` that always packs domain and name of a sample.

    Args:
        domain: Used instead of the domain of the dataset.
        **kwargs: See :class:`mmseg.datasets.PackSegInputs`.
    """

    def __init__(self, domain: str | None = None, **kwargs: Any):
        super().__init__(**kwargs)
        self.domain = domain
        if isinstance(self.meta_keys, str):
            self.meta_keys = (self.meta_keys,)
        keys = (*self.meta_keys, 'domain', 'sample_name', 'image_range')
        self.meta_keys = (*dict.fromkeys(keys),)

    def transform(self, results: dict) -> dict:
        """Return ``inputs`` ((3, H, W) uint8) and ``data_samples``.

        ``data_samples.domain`` is a str in its metainfo. After
        ``KeepCleanView``, ``data_samples.clean_img`` is a PixelData of
        (3, H, W) uint8 in the channel order of ``inputs``.

        Raises:
            UserError: Neither the dataset nor the argument names a domain, or
                the clean view has another size than the image.
        """
        if self.domain is not None:
            results['domain'] = self.domain
        if not results.get('domain'):
            raise UserError(
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
            raise UserError(
                f'PackDGInputs: the clean view of {results.get("img_path")} '
                f'is {clean.shape}, the image {shape}. KeepCleanView must '
                'stand after the steps that resize, crop or pad.'
            )
        planes = np.ascontiguousarray(clean.transpose(2, 0, 1))
        return PixelData(data=torch.from_numpy(planes))

    def __repr__(self) -> str:
        return (
            f'{type(self).__name__}(domain={self.domain!r}, '
            f'meta_keys={self.meta_keys})'
        )
