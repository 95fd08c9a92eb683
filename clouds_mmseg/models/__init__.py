"""Backbones, heads and segmentors; see docs/architecture.md."""

from clouds_mmseg.models.backbones.clip import CLIPBackbone
from clouds_mmseg.models.backbones.timm import FrozenTIMMBackbone
from clouds_mmseg.models.mask2former import CLOUDSHead
from clouds_mmseg.models.segmentors.dg_segmentor import DGSegmentor
from clouds_mmseg.models.segmentors.self_training_segmentor import (
    SelfTrainingSegmentor,
)

__all__ = [
    'CLIPBackbone',
    'CLOUDSHead',
    'DGSegmentor',
    'FrozenTIMMBackbone',
    'SelfTrainingSegmentor',
]
