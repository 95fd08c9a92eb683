# 40,000 iterations at a constant 1e-5.
_base_ = './adamw.py'
train_cfg = dict(type='ExactTrainLoop', max_iters=40000, val_interval=10000)
