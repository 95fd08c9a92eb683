# Train on ToyCity's game-like source; test on a held-out part of it and on
# the five targets.
_base_ = '../datasets/toycity.py'
# An image that is no sample of a dataset: what MMSegmentation's
# inference_model and MMSegInferencer run.
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='PackSegInputs'),
]
train_dataloader = dict(
    num_workers=2,
    persistent_workers=True,
    dataset={{_base_.train_toycity_source}},
)
val_dataloader = dict(
    batch_size=8,
    num_workers=2,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='ConcatDataset',
        pipeline=test_pipeline,
        datasets=[
            {{_base_.val_toycity_source}},
            {{_base_.val_toycity_clear}},
            {{_base_.val_toycity_fog}},
            {{_base_.val_toycity_night}},
            {{_base_.val_toycity_rain}},
            {{_base_.val_toycity_snow}},
        ],
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(
    type='DGIoUMetric',
    domains=[
        'toycity_source',
        'toycity_clear',
        'toycity_fog',
        'toycity_night',
        'toycity_rain',
        'toycity_snow',
    ],
    # Reported, but no part of the mean over unseen domains.
    source_domains=['toycity_source'],
    protocol='native',
)
test_evaluator = val_evaluator
