"""Frozen and trainable backbones with four feature maps."""

from clouds_mmseg.models.backbones.clip import CLIPBackbone
from clouds_mmseg.models.backbones.timm import FrozenTIMMBackbone

__all__ = ['CLIPBackbone', 'FrozenTIMMBackbone']
