"""Metrics and evaluation protocols."""

from clouds_mmseg.evaluation.dg_iou_metric import DGIoUMetric
from clouds_mmseg.evaluation.protocols import PROTOCOLS, apply_protocol
from clouds_mmseg.evaluation.submission import SubmissionMetric

__all__ = [
    'PROTOCOLS',
    'DGIoUMetric',
    'SubmissionMetric',
    'apply_protocol',
]
