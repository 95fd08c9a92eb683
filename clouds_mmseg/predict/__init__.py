"""Prediction for images that belong to no data set."""

from clouds_mmseg.predict.exported import ExportedSegmenter
from clouds_mmseg.predict.prediction import Prediction
from clouds_mmseg.predict.segmenter import Segmenter

__all__ = ['ExportedSegmenter', 'Prediction', 'Segmenter']
