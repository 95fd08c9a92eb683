"""Pipeline steps."""

from clouds_mmseg.datasets.transforms.evaluate_at_input_size import (
    EvaluateAtInputSize,
)
from clouds_mmseg.datasets.transforms.load_image import LoadSegImage
from clouds_mmseg.datasets.transforms.load_labels import LoadSegLabels
from clouds_mmseg.datasets.transforms.pack_inputs import PackDGInputs

__all__ = [
    'EvaluateAtInputSize',
    'LoadSegImage',
    'LoadSegLabels',
    'PackDGInputs',
]
