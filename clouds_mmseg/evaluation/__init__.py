"""Metrics and named evaluation protocols."""

from clouds_mmseg.evaluation.corruption_metric import CorruptionMetric
from clouds_mmseg.evaluation.dg_iou_metric import DGIoUMetric
from clouds_mmseg.evaluation.protocols import PROTOCOLS, apply_protocol

__all__ = ['PROTOCOLS', 'CorruptionMetric', 'DGIoUMetric', 'apply_protocol']
