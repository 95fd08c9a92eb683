"""Mask heads for plain ViTs, without a pixel decoder: PMT and EoMT."""

from clouds_mmseg.models.plain_mask.eomt import EoMTHead
from clouds_mmseg.models.plain_mask.pmt import PMTHead

__all__ = ['EoMTHead', 'PMTHead']
