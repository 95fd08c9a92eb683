# Rein on a frozen DINOv2-L, GTA5 -> Cityscapes, BDD100K, Mapillary Vistas.
# Published with Rein's evaluation (windows of 512 at 1024x512): 66.4, 60.4,
# 66.1 (CVPR 2024). Ours is the benchmark's: not to be compared with it.
_base_ = [
    '../_base_/default_runtime.py',
    '../_base_/models/dinov2_large.py',
    '../_base_/pipelines/crop_512.py',
    '../_base_/benchmarks/gta2cs.py',
    '../_base_/schedules/rein.py',
]
model = dict(
    backbone=dict(adapter=dict(type='Rein')),
    decode_head=dict(queries='backbone'),
)
train_dataloader = dict(dataset=dict(pipeline={{_base_.train_pipeline_512}}))
