# Train on Cityscapes; test on each weather of ACDC's validation split.
_base_ = [
    '../loaders.py',
    '../datasets/cityscapes.py',
    '../datasets/acdc.py',
]
train_dataloader = dict(dataset={{_base_.train_cityscapes}})
val_dataloader = dict(
    dataset=dict(
        datasets=[
            {{_base_.val_acdc_fog}},
            {{_base_.val_acdc_night}},
            {{_base_.val_acdc_rain}},
            {{_base_.val_acdc_snow}},
        ]
    )
)
test_dataloader = val_dataloader
val_evaluator = dict(
    domains=['acdc_fog', 'acdc_night', 'acdc_rain', 'acdc_snow']
)
test_evaluator = val_evaluator
