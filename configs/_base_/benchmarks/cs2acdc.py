# Train on Cityscapes; test on each weather of ACDC's validation split.
_base_ = [
    '../datasets/single_image.py',
    '../datasets/cityscapes.py',
    '../datasets/acdc.py',
]
train_dataloader = dict(
    num_workers=4,
    persistent_workers=True,
    dataset={{_base_.train_cityscapes}},
)
val_dataloader = dict(
    batch_size=1,
    num_workers=4,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='ConcatDataset',
        pipeline={{_base_.test_pipeline}},
        datasets=[
            {{_base_.val_acdc_fog}},
            {{_base_.val_acdc_night}},
            {{_base_.val_acdc_rain}},
            {{_base_.val_acdc_snow}},
        ],
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(
    type='DGIoUMetric',
    domains=['acdc_fog', 'acdc_night', 'acdc_rain', 'acdc_snow'],
    protocol='clouds',
)
test_evaluator = val_evaluator
