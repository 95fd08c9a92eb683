"""The segmentor of the benchmarks."""

import torch
from mmengine.structures import PixelData
from mmseg.models import EncoderDecoder
from mmseg.models.utils import resize
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample

from clouds_mmseg.utils.finite import (
    require_finite_best,
    require_finite_scores,
)


@MODELS.register_module()
class DGSegmentor(EncoderDecoder):
    """An ``EncoderDecoder`` whose head asks the backbone for its widths.

    A config that exchanges the backbone then changes one line: the head's
    ``in_channels`` are the backbone's ``channels`` unless the config states
    them.

    In the mode ``slide`` several windows go through the network at once:
    ``test_cfg.window_batch`` of them, 4 by default.

    Args:
        **kwargs: As for :class:`mmseg.models.EncoderDecoder`.

    Raises:
        ValueError: ``decode_head`` states no ``in_channels`` and the
            backbone has no attribute ``channels``.
    """

    def _init_decode_head(self, decode_head):
        if 'in_channels' not in decode_head:
            channels = getattr(self.backbone, 'channels', None)
            if channels is None:
                raise ValueError(
                    f'{type(self.backbone).__name__} does not say how many '
                    'channels its feature maps have: give '
                    'model.decode_head.in_channels in the config, one number '
                    'a map'
                )
            decode_head = dict(decode_head, in_channels=list(channels))
        super()._init_decode_head(decode_head)

    def slide_inference(self, inputs, batch_img_metas):
        """Predict windows and take the mean where they overlap.

        Windows and result are those of the class above. A window's features
        depend on where its borders are, so windows share none.

        Args:
            inputs (Tensor): (N, 3, H, W), normalised.
            batch_img_metas (list[dict]): N metainfos.

        Returns:
            Tensor: (N, K, H, W) scores.
        """
        images, _, height, width = inputs.shape
        crop, stride = self.test_cfg.crop_size, self.test_cfg.stride
        windows = [
            (..., rows, columns)
            for rows in _spans(height, crop[0], stride[0])
            for columns in _spans(width, crop[1], stride[1])
        ]
        total = inputs.new_zeros(images, self.out_channels, height, width)
        count = inputs.new_zeros(height, width)
        at_once = self.test_cfg.get('window_batch', 4)
        for first in range(0, len(windows), at_once):
            group = windows[first : first + at_once]
            crops = torch.cat([inputs[window] for window in group])
            metas = [
                dict(meta, img_shape=tuple(crops.shape[2:]))
                for _ in group
                for meta in batch_img_metas
            ]
            scores = self.encode_decode(crops, metas).split(images)
            for window, part in zip(group, scores, strict=True):
                total[window] += part
                count[window] += 1
        return total.div_(count)

    def postprocess_result(self, seg_logits, data_samples=None):
        """Bring scores to the size of the picture and name the best class.

        The result is that of the class above; scores that have their size
        are not resized, and on a CPU the best class of K maps is found in a
        quarter of the time that ``argmax`` over them takes.

        Args:
            seg_logits (Tensor): (N, K, H, W) scores.
            data_samples (list[SegDataSample], optional): N samples to fill;
                of the metainfo ``img_padding_size`` (or ``padding_size``),
                ``flip``, ``flip_direction`` and ``ori_shape`` are read. New
                ones, at the size of the scores, if None.

        Returns:
            list[SegDataSample]: With ``seg_logits`` (K, h, w) and
            ``pred_sem_seg`` (1, h, w) int64.

        Raises:
            NonFiniteError: A pixel's best score is NaN or infinite; the
                message names the image.
        """
        if seg_logits.shape[1] == 1:  # Of one class: a threshold decides.
            results = super().postprocess_result(seg_logits, data_samples)
            for sample in results:
                require_finite_scores(
                    sample.seg_logits.data, sample.get('img_path')
                )
            return results
        if data_samples is None:
            data_samples = [SegDataSample() for _ in seg_logits]
        for sample, scores in zip(data_samples, seg_logits, strict=True):
            scores = self._as_loaded(scores, sample.metainfo)
            best, label = scores.max(dim=0, keepdim=True)
            require_finite_best(best, sample.get('img_path'))
            sample.seg_logits = PixelData(data=scores)
            sample.pred_sem_seg = PixelData(data=label)
        return data_samples

    def _as_loaded(self, scores, meta):
        """Undo padding, flip and resizing of the input for (K, H, W)."""
        padding = meta.get('img_padding_size', meta.get('padding_size'))
        left, right, top, bottom = padding or (0, 0, 0, 0)
        height, width = scores.shape[1:]
        scores = scores[:, top : height - bottom, left : width - right]
        if meta.get('flip'):
            horizontal = meta['flip_direction'] == 'horizontal'
            scores = scores.flip(2 if horizontal else 1)
        size = tuple(meta.get('ori_shape', scores.shape[1:]))
        if size == tuple(scores.shape[1:]):
            return scores
        return resize(
            scores[None],
            size=size,
            mode='bilinear',
            align_corners=self.align_corners,
            warning=False,
        )[0]


def _spans(side, crop, stride):
    """Where the windows lie along one side: slices of equal length."""
    number = max(side - crop + stride - 1, 0) // stride + 1
    ends = [min(i * stride + crop, side) for i in range(number)]
    return [slice(max(end - crop, 0), end) for end in ends]
