"""Backbones, heads and segmentors; see docs/architecture.md."""

from clouds_mmseg.models.clip_backbone import CLIPBackbone
from clouds_mmseg.models.dg_segmentor import DGSegmentor
from clouds_mmseg.models.frozen_timm_backbone import FrozenTIMMBackbone
from clouds_mmseg.models.mask2former import CLOUDSHead
from clouds_mmseg.models.self_training_segmentor import SelfTrainingSegmentor

__all__ = [
    'CLIPBackbone',
    'CLOUDSHead',
    'DGSegmentor',
    'FrozenTIMMBackbone',
    'SelfTrainingSegmentor',
]
