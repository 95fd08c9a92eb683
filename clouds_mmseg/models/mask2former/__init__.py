"""Mask2Former's decode head in pure PyTorch."""

from clouds_mmseg.models.mask2former.head import CLOUDSHead

__all__ = ['CLOUDSHead']
