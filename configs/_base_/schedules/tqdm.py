# 20,000 iterations to a rate of 1e-6 after a warm-up of 1,500: tqdm's for
# GTA5. There the polynomial decay begins with the warm-up, here behind it.
_base_ = './adamw.py'
optim_wrapper = dict(
    optimizer=dict(lr=1e-5, weight_decay=1e-4),
    # Not clipped.
    clip_grad=None,
    paramwise_cfg=dict(
        _delete_=True,
        custom_keys=dict(
            backbone=dict(lr_mult=0.1), norm=dict(decay_mult=0.0)
        ),
    ),
)
# 8 a GPU; the number of GPUs is not in its configs.
total_batch_size = 8
# Batch norms of the learned pyramid, over all processes.
sync_bn = 'torch'
train_cfg = dict(type='ExactTrainLoop', max_iters=20000, val_interval=2000)
param_scheduler = [
    dict(
        type='LinearLR', start_factor=1e-6, begin=0, end=1500, by_epoch=False
    ),
    dict(
        type='PolyLR',
        power=0.9,
        eta_min=1e-6,
        begin=1500,
        end=20000,
        by_epoch=False,
    ),
]
