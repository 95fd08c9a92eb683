# EoMT, a trained DINOv2-L as in its published models, Cityscapes -> ACDC,
# crops of 1024. Published is 84.2 on Cityscapes itself, in windows of 1024.
_base_ = [
    '../_base_/default_runtime.py',
    '../_base_/models/eomt_dinov2_large.py',
    '../_base_/pipelines/crop_1024.py',
    '../_base_/benchmarks/cs2acdc.py',
    '../_base_/schedules/eomt.py',
]
model = dict(data_preprocessor=dict(size=(1024, 1024)))
train_dataloader = dict(dataset=dict(pipeline={{_base_.train_pipeline_1024}}))
# Masks go block after block, from 1/6 to 5/6 of the training.
default_hooks = dict(mask_annealing=dict(type='MaskAnnealingHook'))
