"""Pipeline steps of the data sets."""

from clouds_mmseg.datasets.transforms.color_distortion import (
    FastPhotoMetricDistortion,
)
from clouds_mmseg.datasets.transforms.diffusion_augment import (
    DiffusionAugment,
    TakeImageFrom,
)
from clouds_mmseg.datasets.transforms.formatting import (
    EvaluateAtInputSize,
    HalveImage,
    HalveLabels,
    KeepCleanView,
    PackDGInputs,
)
from clouds_mmseg.datasets.transforms.loading import (
    LoadSegImage,
    LoadSegLabels,
)

__all__ = [
    'DiffusionAugment',
    'EvaluateAtInputSize',
    'FastPhotoMetricDistortion',
    'HalveImage',
    'HalveLabels',
    'KeepCleanView',
    'LoadSegImage',
    'LoadSegLabels',
    'PackDGInputs',
    'TakeImageFrom',
]
