"""Metrics and named evaluation protocols."""

from clouds_mmseg.evaluation.dg_iou_metric import DGIoUMetric
from clouds_mmseg.evaluation.protocols import PROTOCOLS, apply_protocol

__all__ = ['PROTOCOLS', 'DGIoUMetric', 'apply_protocol']
