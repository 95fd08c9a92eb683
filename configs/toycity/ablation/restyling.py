# DiffusionAugment without self-training: the warm-up goes on to the end.
_base_ = '../clouds.py'
train_cfg = dict(warmup_iters={{_base_.train_cfg.max_iters}})
