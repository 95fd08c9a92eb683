# All of CLOUDS on ToyCity alone: source-only training, half of the images
# restyled, then self-training with scenes of the embedded generator.
_base_ = ['./warmup.py', '../_base_/datasets/generated_toycity.py']
model = dict(
    type='SelfTrainingSegmentor',
    # The official teacher moves 400 times in 40,000 iterations, a third of
    # the way. Here the student still learns fast, so the teacher keeps up:
    # a horizon of some 50 iterations.
    teacher_decay=0.8,
)
train_dataloader = dict(
    dataset=dict(
        _delete_=True,
        type='KeyedDataset',
        datasets=[
            {{_base_.train_restyled_toycity}},
            {{_base_.train_generated_toycity}},
        ],
    )
)
# During training also on a held-out part of the source, restyled: what can be
# looked at where no target may be.
val_dataloader = dict(
    dataset=dict(
        datasets=[
            {{_base_.val_toycity_source}},
            {{_base_.val_restyled_toycity}},
            {{_base_.val_toycity_clear}},
            {{_base_.val_toycity_fog}},
            {{_base_.val_toycity_night}},
            {{_base_.val_toycity_rain}},
            {{_base_.val_toycity_snow}},
        ]
    )
)
val_evaluator = dict(
    domains=[
        'toycity_source',
        'toycity_source_restyled',
        'toycity_clear',
        'toycity_fog',
        'toycity_night',
        'toycity_rain',
        'toycity_snow',
    ],
    source_domains=['toycity_source', 'toycity_source_restyled'],
)
train_cfg = dict(
    _delete_=True,
    type='SelfTrainingLoop',
    warmup_iters=200,
    max_iters=400,
    # About the official share.
    generated_share=0.25,
    val_interval=400,
)
param_scheduler = [
    dict(
        type='PolyRestartLR', power=0.9, period=400, warmup=30, by_epoch=False
    )
]
# Kept for other runs that share this warm-up.
default_hooks = dict(checkpoint=dict(interval=200))
# Pieces, for the rows of the ablation.
teacher_hook = dict(type='EMATeacherHook', interval=10)
report_hook = dict(type='PseudoLabelReportHook', interval=50)
accuracy_hook = dict(
    type='PseudoLabelAccuracyHook',
    dataset={{_base_.val_generated_toycity}},
    interval=50,
)
custom_hooks = [
    dict(type='ProgressHook'),
    dict(type='PredictionPicturesHook', per_domain=2),
    dict(type='ResultsHook'),
    teacher_hook,
    report_hook,
    accuracy_hook,
    # No weights needed. The purity was chosen on generated scenes.
    dict(
        type='SAMRefineHook',
        refiner=dict(
            type='SuperpixelRefiner',
            purity=0.5,
            cache_dir='data/toycity/segments',
        ),
        picture_interval=100,
    ),
]
banks = [
    {{_base_.bank_generated_toycity}},
    {{_base_.bank_restyled_toycity}},
    {{_base_.bank_restyled_val_toycity}},
]
load_cfg = dict(allow_missing=['teacher.'])
runner_type = 'SelfTrainingRunner'
