"""Runners, training loops, optimisation and hooks."""

from clouds_mmseg.engine.hooks.checkpoint import (
    AtomicLocalBackend,
    CheckpointClassesHook,
    SafeCheckpointHook,
)
from clouds_mmseg.engine.hooks.ema import DGEMAHook
from clouds_mmseg.engine.hooks.feature_cache import FeatureCacheHook
from clouds_mmseg.engine.hooks.mask_annealing import MaskAnnealingHook
from clouds_mmseg.engine.hooks.nonfinite_check import NonFiniteCheckHook
from clouds_mmseg.engine.hooks.progress import DGLogProcessor, ProgressHook
from clouds_mmseg.engine.hooks.results import ResultsHook
from clouds_mmseg.engine.hooks.self_training import (
    EMATeacherHook,
    PseudoLabelAccuracyHook,
    PseudoLabelReportHook,
    SAMRefineHook,
)
from clouds_mmseg.engine.hooks.visualization import PredictionPicturesHook
from clouds_mmseg.engine.loops import ExactTrainLoop, SelfTrainingLoop
from clouds_mmseg.engine.optim import (
    BF16OptimWrapper,
    LayerDecayConstructor,
    PolyRestartLR,
)
from clouds_mmseg.engine.runner import DGRunner
from clouds_mmseg.engine.self_training_runner import SelfTrainingRunner
from clouds_mmseg.engine.sharding import FullyShardedDataParallel2

__all__ = [
    'AtomicLocalBackend',
    'BF16OptimWrapper',
    'CheckpointClassesHook',
    'DGEMAHook',
    'DGLogProcessor',
    'DGRunner',
    'EMATeacherHook',
    'ExactTrainLoop',
    'FeatureCacheHook',
    'FullyShardedDataParallel2',
    'LayerDecayConstructor',
    'MaskAnnealingHook',
    'NonFiniteCheckHook',
    'PolyRestartLR',
    'PredictionPicturesHook',
    'ProgressHook',
    'PseudoLabelAccuracyHook',
    'PseudoLabelReportHook',
    'ResultsHook',
    'SAMRefineHook',
    'SafeCheckpointHook',
    'SelfTrainingLoop',
    'SelfTrainingRunner',
]
