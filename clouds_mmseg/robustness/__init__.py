"""Cityscapes-C: common corruptions, their dataset, metric and tool."""

from clouds_mmseg.robustness.corruptions import CorruptImage
from clouds_mmseg.robustness.dataset import CorruptedDataset
from clouds_mmseg.robustness.metric import CorruptionMetric

__all__ = ['CorruptImage', 'CorruptedDataset', 'CorruptionMetric']
