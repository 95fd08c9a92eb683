# EoMT's for Cityscapes: 20,000 iterations of 16 images, from 1e-4 down to 0,
# polynomially, with rates that decay by 0.8 from block to block of the
# tower. There, the head is warmed up over 500 iterations while the tower
# rests, and the tower over the next 1,000; here both over 1,500.
_base_ = './adamw.py'
optim_wrapper = dict(
    optimizer=dict(lr=1e-4),
    constructor='LayerDecayConstructor',
    paramwise_cfg=dict(
        _delete_=True,
        layer_decay=0.8,
        # The last block has the rate of the head there, not 0.8 of it.
        custom_keys=dict(backbone=dict(lr_mult=0.8**-1)),
    ),
)
total_batch_size = 16
train_cfg = dict(type='ExactTrainLoop', max_iters=20000, val_interval=5000)
param_scheduler = [
    dict(
        type='LinearLR', start_factor=1e-6, begin=0, end=1500, by_epoch=False
    ),
    dict(
        type='PolyLR',
        power=0.9,
        eta_min=0,
        begin=1500,
        end=20000,
        by_epoch=False,
    ),
]
