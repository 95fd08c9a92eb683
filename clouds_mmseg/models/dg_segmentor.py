"""The segmentor of the benchmarks."""

import torch
from mmseg.models import EncoderDecoder
from mmseg.registry import MODELS


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


def _spans(side, crop, stride):
    """Where the windows lie along one side: slices of equal length."""
    number = max(side - crop + stride - 1, 0) // stride + 1
    ends = [min(i * stride + crop, side) for i in range(number)]
    return [slice(max(end - crop, 0), end) for end in ends]
