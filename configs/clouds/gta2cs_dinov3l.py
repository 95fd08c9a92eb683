# CLOUDS' self-training with Rein on a frozen DINOv3-L,
# GTA5 -> Cityscapes, BDD100K, Mapillary Vistas.
# Never run on these data; schedule and crops are those of gta2cs.py.
_base_ = ['./gta2cs.py', '../_base_/models/rein_dinov3_large.py']
model = {{_base_.rein_dinov3_large}}
optim_wrapper = dict(paramwise_cfg={{_base_.rein_paramwise}})
