"""Prediction for images that belong to no data set."""

from clouds_mmseg.predict.exported import ExportedSegmenter
from clouds_mmseg.predict.segmenter import Prediction, Segmenter

__all__ = ['ExportedSegmenter', 'Prediction', 'Segmenter']
