"""SAMs of the published sizes with random weights, to measure with."""

import timm
import torch
from torch import nn

from clouds_mmseg.refine.digest import digest_text
from clouds_mmseg.refine.sam_model import PromptedSAM
from clouds_mmseg.refine.sam_refiner import SAMRefiner

VARIANTS = ('vit_t', 'vit_b')
_CHANNELS = 256


def build_sam(variant, side=1024):
    """Build a SAM.

    ``vit_b`` is segment-anything's own. ``vit_t`` stands for MobileSAM's,
    whose package is not on PyPI: a TinyViT-5M of timm whose last stage keeps
    its resolution, as MobileSAM's does, under segment-anything's neck,
    prompt encoder and mask decoder.

    Args:
        variant (str): One of :data:`VARIANTS`.
        side (int): Of the square that the encoder sees, pixels: 1024 in the
            published ones; a multiple of 64.

    Returns:
        nn.Module: A ``Sam``, in eval mode.
    """
    from segment_anything import sam_model_registry
    from segment_anything.modeling import ImageEncoderViT, PromptEncoder

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        sam = sam_model_registry['vit_b']()
        grid = side // 16
        if variant == 'vit_t':
            sam.image_encoder = TinyEncoder(side)
        elif side != sam.image_encoder.img_size:
            sam.image_encoder = ImageEncoderViT(
                img_size=side, use_rel_pos=True
            )
        sam.prompt_encoder = PromptEncoder(
            embed_dim=_CHANNELS,
            image_embedding_size=(grid, grid),
            input_image_size=(side, side),
            mask_in_chans=16,
        )
    return sam.eval().requires_grad_(False)


class TinyEncoder(nn.Module):
    """TinyViT-5M (arXiv 2207.10666) as an image encoder of SAM.

    Args:
        side (int): Of its input, pixels.

    Attributes:
        img_size (int): The same; segment-anything asks for it.
    """

    def __init__(self, side):
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

    def forward(self, x):
        """Map (N, 3, side, side) to (N, 256, side / 16, side / 16)."""
        return self.neck(self.trunk.forward_features(x))


class RandomSAM(PromptedSAM):
    """A SAM as refiners use it, with random weights.

    Args:
        variant (str): One of :data:`VARIANTS`.
        side (int): As for :func:`build_sam`.
    """

    def __init__(self, variant, side):
        from segment_anything import SamPredictor

        self.model = build_sam(variant, side)
        self.transform = SamPredictor(self.model).transform
        self.identity = digest_text('random', variant, side)


class RandomSAMRefiner(SAMRefiner):
    """The refiner around it.

    Args:
        variant (str): One of :data:`VARIANTS`.
        side (int): As for :func:`build_sam`.
        **options: As for :class:`SAMRefiner`.
    """

    def __init__(self, variant, side, **options):
        super().__init__(variant=variant, checkpoint=side, **options)

    def _load(self, variant, checkpoint):
        return RandomSAM(variant, checkpoint)
