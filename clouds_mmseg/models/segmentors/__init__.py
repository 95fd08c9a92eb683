"""Segmentors: supervised, and self-training with a teacher."""

from clouds_mmseg.models.segmentors.dg_segmentor import DGSegmentor
from clouds_mmseg.models.segmentors.self_training_segmentor import (
    SelfTrainingSegmentor,
)

__all__ = ['DGSegmentor', 'SelfTrainingSegmentor']
