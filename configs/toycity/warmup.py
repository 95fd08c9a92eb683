# The demo: minutes on two CPU cores, from PyPI alone.
_base_ = [
    '../_base_/default_runtime.py',
    '../_base_/models/clouds_lite0.py',
    '../_base_/benchmarks/toycity.py',
    '../_base_/schedules/adamw.py',
]
# The head starts from nothing and has minutes, so it learns a hundred times
# faster than the official schedule, and slows down at the end.
optim_wrapper = dict(optimizer=dict(lr=1e-3))
train_cfg = dict(type='ExactTrainLoop', max_iters=300, val_interval=300)
param_scheduler = [
    dict(
        type='PolyRestartLR', power=0.9, period=300, warmup=30, by_epoch=False
    )
]
