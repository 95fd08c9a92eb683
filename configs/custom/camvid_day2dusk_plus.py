# The recommended self-training on photographs: the generated images are the 24
# day photographs, restyled by operations on pixels, which needs no weights.
_base_ = './camvid_day2dusk.py'
banks = [{{_base_.bank_restyled_camvid}}]
model = dict(
    type='SelfTrainingSegmentor',
    # As on ToyCity: the student learns fast, and the teacher keeps up.
    teacher_decay=0.8,
    label_weight='region',
    mixing=dict(type='ClassMix'),
)
train_dataloader = dict(
    dataset=dict(
        _delete_=True,
        type='KeyedDataset',
        datasets=[
            {{_base_.train_camvid_day}},
            {{_base_.train_generated_camvid}},
        ],
    )
)
# As many steps as camvid_day2dusk.py, the second half with self-training: 3
# labelled crops and a generated one.
train_cfg = dict(
    _delete_=True,
    type='SelfTrainingLoop',
    warmup_iters=150,
    max_iters=300,
    generated_share=0.25,
    val_interval=300,
)
# Kept for other runs that share this source-only stage.
default_hooks = dict(checkpoint=dict(interval=150))
custom_hooks = [
    dict(type='ProgressHook'),
    dict(type='PredictionPicturesHook', per_domain=2),
    dict(type='ResultsHook'),
    dict(type='EMATeacherHook', interval=10),
    dict(type='PseudoLabelReportHook', interval=50),
    dict(
        type='SAMRefineHook',
        refiner=dict(type='SuperpixelRefiner'),
        picture_interval=50,
    ),
]
load_cfg = dict(allow_missing=['teacher.'])
runner_type = 'SelfTrainingRunner'
