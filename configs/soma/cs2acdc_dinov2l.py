# SoMA on a frozen DINOv2-L, Cityscapes -> ACDC, crops of 1024. SoMA's numbers:
# 1e-4, a warm-up of 10,000 iterations, 8 images, 40,000 iterations.
_base_ = [
    '../_base_/default_runtime.py',
    '../_base_/models/dinov2_large.py',
    '../_base_/pipelines/crop_1024.py',
    '../_base_/benchmarks/cs2acdc.py',
    '../_base_/schedules/soma.py',
]
model = dict(
    data_preprocessor=dict(size=(1024, 1024)),
    backbone=dict(
        img_size=1024,
        adapter=dict(type='SoMA', svd='pretrained', first_block=8),
    ),
)
train_dataloader = dict(dataset=dict(pipeline={{_base_.train_pipeline_1024}}))
total_batch_size = 8
param_scheduler = [
    dict(
        type='LinearLR', start_factor=1e-6, begin=0, end=10000, by_epoch=False
    ),
    dict(
        type='PolyLR',
        power=0.9,
        eta_min=0,
        begin=10000,
        end=40000,
        by_epoch=False,
    ),
    dict(
        type='CosineAnnealingParamScheduler',
        param_name='weight_decay',
        eta_min=1e-5,
        begin=0,
        end=40000,
        by_epoch=False,
    ),
]
default_hooks = dict(ema=dict(type='EMAHook', begin_iter=20000))
