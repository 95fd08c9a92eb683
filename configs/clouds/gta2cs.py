# GTA5 -> Cityscapes, BDD100K, Mapillary: warm-up, then self-training.
_base_ = ['../warmup/gta2cs.py', '../_base_/datasets/generated.py']
model = dict(type='SelfTrainingSegmentor', teacher_decay=0.999)
train_dataloader = dict(
    dataset=dict(
        _delete_=True,
        type='KeyedDataset',
        datasets=[{{_base_.train_gta5}}, {{_base_.train_generated}}],
    )
)
train_cfg = dict(
    _delete_=True,
    type='SelfTrainingLoop',
    warmup_iters=40000,
    max_iters=80000,
    # 5,000 images at the official sampling weight 2.0 beside 24,904.
    generated_share=0.2865,
    val_interval=10000,
)
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
