"""Pipeline steps."""

from clouds_mmseg.datasets.transforms.corrupt import CorruptImage
from clouds_mmseg.datasets.transforms.diffusion_augment import (
    DiffusionAugment,
)
from clouds_mmseg.datasets.transforms.evaluate_at_input_size import (
    EvaluateAtInputSize,
)
from clouds_mmseg.datasets.transforms.keep_clean_view import KeepCleanView
from clouds_mmseg.datasets.transforms.load_image import LoadSegImage
from clouds_mmseg.datasets.transforms.load_labels import LoadSegLabels
from clouds_mmseg.datasets.transforms.pack_inputs import PackDGInputs
from clouds_mmseg.datasets.transforms.take_image import TakeImageFrom

__all__ = [
    'CorruptImage',
    'DiffusionAugment',
    'EvaluateAtInputSize',
    'KeepCleanView',
    'LoadSegImage',
    'LoadSegLabels',
    'PackDGInputs',
    'TakeImageFrom',
]
