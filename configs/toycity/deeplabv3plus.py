# A baseline on ToyCity that needs no hub: the zoo's DeepLabV3+ with ResNet-18,
# from random weights.
_base_ = [
    '../_base_/default_runtime.py',
    '../_base_/baselines/deeplabv3plus_r18.py',
    '../_base_/benchmarks/toycity.py',
]
model = dict(
    pretrained=None,
    data_preprocessor=dict(size=(128, 256)),
    # The paper's output stride of 16 with its dilations, in place of the
    # zoo's 8: less than half of the time on two cores.
    backbone=dict(strides=(1, 2, 2, 1), dilations=(1, 1, 1, 2)),
    decode_head=dict(dilations=(1, 6, 12, 18)),
)
# The zoo's SGD is for pretrained weights and 80,000 iterations. These are the
# demo's optimiser and rate, and as many iterations as its self-training takes
# in all.
optim_wrapper = dict(
    _delete_=True,
    type='OptimWrapper',
    optimizer=dict(
        type='AdamW', lr=1e-3, weight_decay=0.05, betas=(0.9, 0.999)
    ),
)
train_cfg = dict(max_iters=400, val_interval=400)
param_scheduler = [
    dict(
        type='PolyRestartLR', power=0.9, period=400, warmup=30, by_epoch=False
    )
]
