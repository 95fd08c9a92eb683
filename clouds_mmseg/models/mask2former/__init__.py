"""Mask2Former's decode head in pure PyTorch."""

from clouds_mmseg.models.mask2former.head import CLOUDSHead
from clouds_mmseg.models.mask2former.text_query_head import TextQueryHead

__all__ = ['CLOUDSHead', 'TextQueryHead']
