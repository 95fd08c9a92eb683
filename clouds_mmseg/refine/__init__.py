"""Refiners of pseudo labels: ``(image, label) -> label``."""

from clouds_mmseg.refine.sam_refiner import SAMRefiner
from clouds_mmseg.refine.superpixel_refiner import SuperpixelRefiner

__all__ = ['SAMRefiner', 'SuperpixelRefiner']
