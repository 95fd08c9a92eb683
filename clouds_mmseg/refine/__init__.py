"""Refiners of pseudo labels: ``(image, label) -> label``."""

from clouds_mmseg.refine.concept_refiner import ConceptRefiner
from clouds_mmseg.refine.majority_vote_refiner import MajorityVoteRefiner
from clouds_mmseg.refine.sam_refiner import PromptableRefiner, SAMRefiner
from clouds_mmseg.refine.superpixel_refiner import SuperpixelRefiner

__all__ = [
    'ConceptRefiner',
    'MajorityVoteRefiner',
    'PromptableRefiner',
    'SAMRefiner',
    'SuperpixelRefiner',
]
