# CLOUDS' self-training with Rein on a frozen DINOv3-L,
# Cityscapes -> ACDC.
# Never run on these data; schedule and crops are those of cs2acdc.py.
_base_ = ['./cs2acdc.py', '../_base_/models/rein_dinov3_large.py']
model = {{_base_.rein_dinov3_large}}
optim_wrapper = dict(paramwise_cfg={{_base_.rein_paramwise}})
