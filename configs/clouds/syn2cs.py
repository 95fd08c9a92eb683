# SYNTHIA -> Cityscapes, BDD100K, Mapillary: warm-up, self-training.
_base_ = ['../warmup/syn2cs.py', '../_base_/datasets/generated.py']
model = dict(type='SelfTrainingSegmentor', teacher_decay=0.999)
train_dataloader = dict(
    dataset=dict(
        _delete_=True,
        type='KeyedDataset',
        datasets=[{{_base_.train_synthia}}, {{_base_.train_generated}}],
    )
)
train_cfg = dict(
    _delete_=True,
    type='SelfTrainingLoop',
    warmup_iters=30000,
    max_iters=60000,
    # 5,000 images at the official sampling weight 0.7 beside 9,400.
    generated_share=0.2713,
    val_interval=10000,
)
# Each stage has its own decay, from 1e-5 down to 0.
param_scheduler = [
    dict(type='PolyRestartLR', power=0.9, period=30000, by_epoch=False)
]
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
