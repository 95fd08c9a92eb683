"""models: see docs/architecture.md."""

from clouds_mmseg.models.clip_backbone import CLIPBackbone
from clouds_mmseg.models.frozen_timm_backbone import FrozenTIMMBackbone
from clouds_mmseg.models.mask2former import CLOUDSHead

__all__ = ['CLIPBackbone', 'CLOUDSHead', 'FrozenTIMMBackbone']
