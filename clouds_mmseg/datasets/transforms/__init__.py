"""Pipeline steps of the data sets."""

from clouds_mmseg.datasets.transforms.diffusion_augment import (
    DiffusionAugment,
    TakeImageFrom,
)
from clouds_mmseg.datasets.transforms.formatting import (
    EvaluateAtInputSize,
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
    'KeepCleanView',
    'LoadSegImage',
    'LoadSegLabels',
    'PackDGInputs',
    'TakeImageFrom',
]
