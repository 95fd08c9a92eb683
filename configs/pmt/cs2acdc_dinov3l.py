# PMT on a frozen DINOv3-L, Cityscapes -> ACDC, crops of 1024.
# No published number: nobody has reported it for this benchmark.
_base_ = [
    '../_base_/default_runtime.py',
    '../_base_/models/pmt_dinov3_large.py',
    '../_base_/pipelines/crop_1024.py',
    '../_base_/benchmarks/cs2acdc.py',
    '../_base_/schedules/pmt.py',
]
model = dict(data_preprocessor=dict(size=(1024, 1024)))
train_dataloader = dict(dataset=dict(pipeline={{_base_.train_pipeline_1024}}))
# Masks go block after block, from 1/6 to 5/6 of the training.
default_hooks = dict(mask_annealing=dict(type='MaskAnnealingHook'))
