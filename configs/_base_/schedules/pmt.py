# PMT's for ADE20K: 20,000 iterations of 16 images; a warm-up of 6,000 to
# 2e-4, then a cosine. The weights of all parameters decay.
_base_ = './adamw.py'
optim_wrapper = dict(
    optimizer=dict(lr=2e-4), paramwise_cfg=dict(_delete_=True)
)
total_batch_size = 16
train_cfg = dict(type='ExactTrainLoop', max_iters=20000, val_interval=5000)
param_scheduler = [
    dict(
        type='LinearLR', start_factor=1e-6, begin=0, end=6000, by_epoch=False
    ),
    dict(
        type='CosineAnnealingLR',
        T_max=14000,
        eta_min=1e-9,
        begin=6000,
        end=20000,
        by_epoch=False,
    ),
]
