"""Normalisation and padding of a batch, of both views of its images.

Letters: N images, M of them with a clean view, H and W of the padded batch, h
and w of one image.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from mmseg.models import SegDataPreProcessor
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample
from torch import Tensor


@MODELS.register_module()
class DGDataPreProcessor(SegDataPreProcessor):
    """``SegDataPreProcessor`` that also prepares the teacher's clean views.

    Inputs are processed as by the parent, value for value. The clean views
    of unlabelled samples stay raw in the samples, because a refiner reads them
    as 8-bit images; :meth:`clean_views` normalises and pads them like the
    inputs.

    Args:
        **kwargs: As for :class:`mmseg.models.SegDataPreProcessor`.
    """

    def clean_rgb(self, sample: SegDataSample) -> Tensor:
        """Return the clean view of a sample in the model's channel order.

        Args:
            sample: With ``clean_img``, (3, h, w) uint8, in the channel order
                of the loaded image.

        Returns:
            (3, h, w) uint8.
        """
        view = sample.clean_img.data
        return view.flip(0) if self._channel_conversion else view

    def clean_views(
        self, samples: Sequence[SegDataSample], size: Sequence[int]
    ) -> Tensor:
        """Normalise and pad clean views as :meth:`forward` does inputs.

        Args:
            samples: M samples with ``clean_img``, (3, h, w) uint8, h <= H and
                w <= W.
            size: H and W.

        Returns:
            (M, 3, H, W) float, padded at the right and at the bottom.
        """
        height, width = size
        views = []
        for sample in samples:
            view = self.normalize(self.clean_rgb(sample).float())
            padding = (0, width - view.shape[-1], 0, height - view.shape[-2])
            views.append(F.pad(view, padding, value=self.pad_val))
        return torch.stack(views)

    def normalize(self, images: Tensor) -> Tensor:
        """Map (..., 3, h, w) from [0, 255] to the network's range."""
        if not self._enable_normalize:
            return images
        return (images - self.mean) / self.std

    def denormalize(self, images: Tensor) -> Tensor:
        """Map (..., 3, h, w) from the network's range to [0, 255]."""
        if not self._enable_normalize:
            return images
        return images * self.std + self.mean
