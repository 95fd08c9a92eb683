# CLOUDS' self-training: its network with a teacher, generated images, and
# pseudo labels that SAM refines. The teacher's numbers are the official ones.
_base_ = [
    './default_runtime.py',
    './models/clouds_convnext_large.py',
    './datasets/generated.py',
]
model = dict(type='SelfTrainingSegmentor', teacher_decay=0.999)
custom_hooks = [
    dict(type='ProgressHook'),
    dict(type='PredictionPicturesHook', per_domain=2),
    dict(type='ResultsHook'),
    dict(type='EMATeacherHook', interval=100),
    dict(type='PseudoLabelReportHook', interval=500),
    dict(type='SAMRefineHook', refiner={{_base_.sam_refiner}}),
]
banks = [{{_base_.bank_generated}}]
# A finished warm-up, given as load_from with warmup_iters=0, has no teacher.
load_cfg = dict(allow_missing=['teacher.'])
runner_type = 'SelfTrainingRunner'
