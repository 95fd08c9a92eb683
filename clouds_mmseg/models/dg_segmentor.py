"""The segmentor of the benchmarks."""

from mmseg.models import EncoderDecoder
from mmseg.registry import MODELS


@MODELS.register_module()
class DGSegmentor(EncoderDecoder):
    """An ``EncoderDecoder`` whose head asks the backbone for its widths.

    A config that exchanges the backbone then changes one line: the head's
    ``in_channels`` are the backbone's ``channels`` unless the config states
    them.

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
