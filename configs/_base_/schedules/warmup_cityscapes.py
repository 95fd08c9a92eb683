# 5,000 iterations at a constant 1e-4.
_base_ = './adamw.py'
optim_wrapper = dict(optimizer=dict(lr=1e-4))
train_cfg = dict(type='ExactTrainLoop', max_iters=5000, val_interval=2500)
