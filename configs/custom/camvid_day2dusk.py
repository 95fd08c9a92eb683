# A model for "my own images and classes": train on 24 photographs by day,
# test on 12 at dusk. CAMVID_ROOT=/path/to/camvid_mini says where they are.
_base_ = [
    '../_base_/default_runtime.py',
    '../_base_/models/clouds_lite0.py',
    '../_base_/loaders_native.py',
    '../_base_/datasets/camvid.py',
    '../_base_/schedules/adamw.py',
]
model = dict(
    data_preprocessor=dict(size=(256, 256)),
    decode_head=dict(num_classes=11, loss=dict(num_points=2048)),
)
train_dataloader = dict(dataset={{_base_.train_camvid_day}})
# The day photographs are the training images themselves: their row says how
# well the model fits, the dusk row how well it generalises.
val_dataloader = dict(
    batch_size=4,
    dataset=dict(
        datasets=[{{_base_.val_camvid_day}}, {{_base_.val_camvid_dusk}}]
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(
    domains=['camvid_day', 'camvid_dusk'], source_domains=['camvid_day']
)
test_evaluator = val_evaluator
# As in the demo: a fresh head, a small model, minutes on two cores.
optim_wrapper = dict(optimizer=dict(lr=1e-3))
# Crops twice the size of the demo's images, half as many of them.
total_batch_size = 4
train_cfg = dict(type='ExactTrainLoop', max_iters=300, val_interval=300)
param_scheduler = [
    dict(
        type='PolyRestartLR', power=0.9, period=300, warmup=30, by_epoch=False
    )
]
