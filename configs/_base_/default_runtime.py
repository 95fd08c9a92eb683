# Bases named mmseg::... are found once the package is imported, also by
# MMSegmentation's init_model; custom_imports comes after them. (With an import
# statement, mmengine takes the file for a config of its other style.)
__import__('clouds_mmseg')
# Registers the package's classes before a type is looked up.
custom_imports = dict(imports=['clouds_mmseg'], allow_failed_imports=False)
default_scope = 'mmseg'
runner_type = 'DGRunner'

env_cfg = dict(
    cudnn_benchmark=True,
    mp_cfg=dict(mp_start_method='fork', opencv_num_threads=0),
    # Without a GPU the runner takes gloo.
    dist_cfg=dict(backend='nccl'),
)
randomness = dict(seed=0, deterministic=False)

default_hooks = dict(
    timer=dict(type='IterTimerHook'),
    logger=dict(
        type='LoggerHook',
        interval=50,
        # Scalars of a validation are plotted over iterations.
        log_metric_by_epoch=False,
    ),
    param_scheduler=dict(type='ParamSchedulerHook'),
    # The last checkpoint is the one that is reported: choosing the best on
    # a target domain would leak the target into training (no save_best).
    checkpoint=dict(
        type='SafeCheckpointHook',
        by_epoch=False,
        interval=5000,
        max_keep_ckpts=2,
    ),
    sampler_seed=dict(type='DistSamplerSeedHook'),
    # A loss or gradient that is NaN or infinite stops the training; up to so
    # many optimiser steps may be skipped instead.
    nonfinite_check=dict(type='NonFiniteCheckHook', max_skipped_steps=0),
)
custom_hooks = [
    # A progress line on a terminal; nothing in a file or pipe.
    dict(type='ProgressHook'),
    dict(type='PredictionPicturesHook', per_domain=2),
    dict(type='ResultsHook'),
]

# TensorBoard is added by the runner where it is installed.
visualizer = dict(
    type='SegLocalVisualizer', vis_backends=[dict(type='LocalVisBackend')]
)
log_processor = dict(type='DGLogProcessor', by_epoch=False)
log_level = 'INFO'

load_from = None
resume = False
tta_model = dict(type='SegTTAModel')
