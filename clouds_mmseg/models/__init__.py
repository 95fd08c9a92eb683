"""models: see docs/architecture.md."""

from clouds_mmseg.models.frozen_timm_backbone import FrozenTIMMBackbone

__all__ = ['FrozenTIMMBackbone']
