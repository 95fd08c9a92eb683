"""Runner, hooks and what the tools do; see docs/architecture.md."""

from clouds_mmseg.engine.atomic_backend import AtomicLocalBackend
from clouds_mmseg.engine.bf16_optim_wrapper import BF16OptimWrapper
from clouds_mmseg.engine.checkpoint_classes_hook import CheckpointClassesHook
from clouds_mmseg.engine.dg_log_processor import DGLogProcessor
from clouds_mmseg.engine.dg_runner import DGRunner
from clouds_mmseg.engine.ema_teacher_hook import EMATeacherHook
from clouds_mmseg.engine.exact_train_loop import ExactTrainLoop
from clouds_mmseg.engine.nonfinite_check_hook import NonFiniteCheckHook
from clouds_mmseg.engine.poly_restart_lr import PolyRestartLR
from clouds_mmseg.engine.prediction_pictures_hook import (
    PredictionPicturesHook,
)
from clouds_mmseg.engine.progress_hook import ProgressHook
from clouds_mmseg.engine.pseudo_label_accuracy_hook import (
    PseudoLabelAccuracyHook,
)
from clouds_mmseg.engine.pseudo_label_report_hook import (
    PseudoLabelReportHook,
)
from clouds_mmseg.engine.results_hook import ResultsHook
from clouds_mmseg.engine.safe_checkpoint_hook import SafeCheckpointHook
from clouds_mmseg.engine.sam_refine_hook import SAMRefineHook
from clouds_mmseg.engine.self_training_loop import SelfTrainingLoop
from clouds_mmseg.engine.self_training_runner import SelfTrainingRunner

__all__ = [
    'AtomicLocalBackend',
    'BF16OptimWrapper',
    'CheckpointClassesHook',
    'DGLogProcessor',
    'DGRunner',
    'EMATeacherHook',
    'ExactTrainLoop',
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
