# Source only: the warm-up goes on to the end.
_base_ = './self_training.py'
train_cfg = dict(warmup_iters={{_base_.train_cfg.max_iters}})
