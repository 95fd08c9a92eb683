"""Backbones, heads and segmentors; see docs/architecture.md."""

from clouds_mmseg.models.backbones.adapters import LoRA, Rein, SoMA
from clouds_mmseg.models.backbones.clip import CLIPBackbone
from clouds_mmseg.models.backbones.clip_tower import TIMMCLIPTower
from clouds_mmseg.models.backbones.timm import FrozenTIMMBackbone
from clouds_mmseg.models.backbones.timm_tower import TIMMTower
from clouds_mmseg.models.backbones.transformers_tower import (
    TransformersTower,
)
from clouds_mmseg.models.data_preprocessor import DGDataPreProcessor
from clouds_mmseg.models.mask2former import CLOUDSHead, TextQueryHead
from clouds_mmseg.models.plain_mask import EoMTHead, PMTHead
from clouds_mmseg.models.segmentors.dg_segmentor import DGSegmentor
from clouds_mmseg.models.segmentors.self_training_segmentor import (
    SelfTrainingSegmentor,
)
from clouds_mmseg.models.segmentors.student_views import (
    BlockMask,
    ClassMix,
    ColorJitter,
)

__all__ = [
    'BlockMask',
    'CLIPBackbone',
    'CLOUDSHead',
    'ClassMix',
    'ColorJitter',
    'DGDataPreProcessor',
    'DGSegmentor',
    'EoMTHead',
    'FrozenTIMMBackbone',
    'LoRA',
    'PMTHead',
    'Rein',
    'SelfTrainingSegmentor',
    'SoMA',
    'TIMMCLIPTower',
    'TIMMTower',
    'TextQueryHead',
    'TransformersTower',
]
