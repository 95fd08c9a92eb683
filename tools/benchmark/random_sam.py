"""SAMs of the published sizes with random weights, for benchmarks."""

from functools import partial

import timm
import torch
from torch import nn

from clouds_mmseg.refine.sam_model import PromptedSAM
from clouds_mmseg.refine.sam_refiner import SAMRefiner
from clouds_mmseg.utils.hashing import hash_text

VARIANTS = ('vit_t', 'vit_b')
_CHANNELS = 256


def build_sam(variant: str, side: int = 1024) -> nn.Module:
    """Build a SAM with random weights.

    ``vit_b`` is segment-anything's own. ``vit_t`` stands for MobileSAM's,
    whose package is not on PyPI: a TinyViT-5M of timm whose last stage keeps
    its resolution, as MobileSAM's does, under segment-anything's neck,
    prompt encoder and mask decoder.

    Args:
        variant: One of :data:`VARIANTS`.
        side: Of the square that the encoder sees, pixels: 1024 in the
            published ones; a multiple of 32.

    Returns:
        A ``Sam``, in eval mode.
    """
    from segment_anything.modeling import (
        MaskDecoder,
        PromptEncoder,
        Sam,
        TwoWayTransformer,
    )

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        sam = Sam(
            image_encoder=_ENCODERS[variant](side),
            prompt_encoder=PromptEncoder(
                embed_dim=_CHANNELS,
                image_embedding_size=(side // 16, side // 16),
                input_image_size=(side, side),
                mask_in_chans=16,
            ),
            mask_decoder=MaskDecoder(
                transformer_dim=_CHANNELS,
                transformer=TwoWayTransformer(
                    depth=2,
                    embedding_dim=_CHANNELS,
                    num_heads=8,
                    mlp_dim=2048,
                ),
            ),
        )
    return sam.eval().requires_grad_(False)


def _base_encoder(side):
    """SAM's ViT-B (arXiv 2304.02643)."""
    from segment_anything.modeling import ImageEncoderViT

    return ImageEncoderViT(
        img_size=side,
        norm_layer=partial(nn.LayerNorm, eps=1e-6),
        use_rel_pos=True,
        window_size=14,
        global_attn_indexes=(2, 5, 8, 11),
    )


class TinyEncoder(nn.Module):
    """TinyViT-5M (arXiv 2207.10666) as an image encoder of SAM.

    Args:
        side: Side of the input, pixels.

    Attributes:
        img_size (int): The same; segment-anything reads it.
    """

    def __init__(self, side: int):
        super().__init__()
        from segment_anything.modeling.common import LayerNorm2d

        self.img_size = side
        self.trunk = timm.create_model('tiny_vit_5m_224', num_classes=0)
        # MobileSAM's maps have stride 16, those of the classifier 32.
        self.trunk.stages[-1].downsample.conv2.conv.stride = (1, 1)
        self.neck = nn.Sequential(
            nn.Conv2d(self.trunk.num_features, _CHANNELS, 1, bias=False),
            LayerNorm2d(_CHANNELS),
            nn.Conv2d(_CHANNELS, _CHANNELS, 3, padding=1, bias=False),
            LayerNorm2d(_CHANNELS),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (N, 3, side, side) to (N, 256, side / 16, side / 16)."""
        return self.neck(self.trunk.forward_features(x))


_ENCODERS = dict(vit_t=TinyEncoder, vit_b=_base_encoder)


class RandomSAM(PromptedSAM):
    """SAM with random weights, in the interface of the refiners.

    Args:
        variant: One of :data:`VARIANTS`.
        side: As for :func:`build_sam`.
    """

    def __init__(self, variant: str, side: int):
        from segment_anything import SamPredictor

        self.model = build_sam(variant, side)
        self.transform = SamPredictor(self.model).transform
        self.identity = hash_text('random', variant, side)


class RandomSAMRefiner(SAMRefiner):
    """SAM refiner with random weights.

    Args:
        variant: One of :data:`VARIANTS`.
        side: As for :func:`build_sam`.
        **options: As for :class:`SAMRefiner`.
    """

    def __init__(self, variant: str, side: int, **options):
        super().__init__(variant=variant, checkpoint=side, **options)

    def _load(self, variant, checkpoint):
        return RandomSAM(variant, checkpoint)
