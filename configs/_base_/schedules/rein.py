# 40,000 iterations from 1e-4 down to 0, polynomially: Rein's for GTA5
# (configs/dinov2/rein_dinov2_mask2former_512x512_bs1x4.py there).
_base_ = './adamw.py'
no_decay = dict(decay_mult=0.0)
optim_wrapper = dict(
    # The clipping is Mask2Former's.
    optimizer=dict(lr=1e-4),
    paramwise_cfg=dict(
        _delete_=True,
        custom_keys={
            'learnable_tokens': no_decay,
            'reins.scale': no_decay,
            'level_embed': no_decay,
        },
        norm_decay_mult=0.0,
    ),
)
total_batch_size = 4
train_cfg = dict(type='ExactTrainLoop', max_iters=40000, val_interval=4000)
param_scheduler = [
    dict(
        type='PolyLR', power=0.9, eta_min=0, begin=0, end=40000, by_epoch=False
    )
]
