"""Prediction for images that belong to no data set."""

from clouds_mmseg.predict.segmenter import Prediction, Segmenter

__all__ = ['Prediction', 'Segmenter']
