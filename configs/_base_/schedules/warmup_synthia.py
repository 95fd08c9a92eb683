# 30,000 iterations from 1e-5 down to 0, polynomially.
_base_ = './adamw.py'
train_cfg = dict(type='ExactTrainLoop', max_iters=30000, val_interval=10000)
param_scheduler = [
    dict(
        type='PolyLR', power=0.9, eta_min=0, begin=0, end=30000, by_epoch=False
    )
]
