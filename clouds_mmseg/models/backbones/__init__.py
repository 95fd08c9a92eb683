"""Frozen and trainable backbones with four feature maps."""

from clouds_mmseg.models.backbones.adapters import LoRA, Rein, SoMA
from clouds_mmseg.models.backbones.clip import CLIPBackbone
from clouds_mmseg.models.backbones.clip_tower import TIMMCLIPTower
from clouds_mmseg.models.backbones.timm import FrozenTIMMBackbone
from clouds_mmseg.models.backbones.timm_tower import TIMMTower
from clouds_mmseg.models.backbones.transformers_tower import (
    TransformersTower,
)

__all__ = [
    'CLIPBackbone',
    'FrozenTIMMBackbone',
    'LoRA',
    'Rein',
    'SoMA',
    'TIMMCLIPTower',
    'TIMMTower',
    'TransformersTower',
]
