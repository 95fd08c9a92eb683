# SoMA on a frozen DINOv2-L, GTA5 -> Cityscapes, BDD100K, Mapillary Vistas.
# Published are 68.27 on average, of the moving average of the weights, chosen
# on the targets and tested in windows of 512: not to be compared with ours.
_base_ = [
    '../_base_/default_runtime.py',
    '../_base_/models/dinov2_large.py',
    '../_base_/pipelines/crop_512.py',
    '../_base_/benchmarks/gta2cs.py',
    '../_base_/schedules/soma.py',
]
# svd='random' is what the released code does, and the released files need.
model = dict(
    backbone=dict(adapter=dict(type='SoMA', svd='pretrained', first_block=8))
)
train_dataloader = dict(dataset=dict(pipeline={{_base_.train_pipeline_512}}))
# The moving average of the weights is evaluated, as published.
default_hooks = dict(ema=dict(type='EMAHook', begin_iter=12000))
