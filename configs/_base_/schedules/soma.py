# 40,000 iterations from 1e-4 (5e-5 in the tower) down to 0, polynomially,
# while the weight decay falls from 0.05 to 1e-5: SoMA's for GTA5.
_base_ = './adamw.py'
optim_wrapper = dict(
    # The clipping is Mask2Former's.
    optimizer=dict(lr=1e-4),
    paramwise_cfg=dict(custom_keys=dict(backbone=dict(lr_mult=0.5))),
)
total_batch_size = 4
train_cfg = dict(type='ExactTrainLoop', max_iters=40000, val_interval=4000)
param_scheduler = [
    dict(
        type='PolyLR', power=0.9, eta_min=0, begin=0, end=40000, by_epoch=False
    ),
    dict(
        type='CosineAnnealingParamScheduler',
        param_name='weight_decay',
        eta_min=1e-5,
        begin=0,
        end=40000,
        by_epoch=False,
    ),
]
