"""CLOUDS for MMSegmentation: domain-generalised semantic segmentation.

Importing the package checks the installed stack, makes the configs of
``mmseg::`` and ``clouds_mmseg::`` inheritable, and registers every module into
the registries of mmseg.
"""

from clouds_mmseg.compat import check_stack, prepare_framework
from clouds_mmseg.version import __version__

check_stack()
prepare_framework()

from clouds_mmseg import (  # noqa: E402
    datasets,
    engine,
    evaluation,
    models,
    refine,
    registry,
    robustness,
)
from clouds_mmseg.predict import (  # noqa: E402
    ExportedSegmenter,
    Prediction,
    Segmenter,
)

__all__ = [
    'ExportedSegmenter',
    'Prediction',
    'Segmenter',
    '__version__',
    'datasets',
    'engine',
    'evaluation',
    'models',
    'refine',
    'registry',
    'robustness',
]
