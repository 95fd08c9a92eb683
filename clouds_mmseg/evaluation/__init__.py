"""Metrics and named evaluation protocols."""

from clouds_mmseg.evaluation.dg_iou_metric import DGIoUMetric

__all__ = ['DGIoUMetric']
