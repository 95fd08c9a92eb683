# EoMT, a trained DINOv3-L, SYNTHIA -> Cityscapes, BDD100K, Mapillary Vistas.
# No published number: nobody has reported it for this benchmark.
_base_ = [
    '../_base_/default_runtime.py',
    '../_base_/models/eomt_dinov3_large.py',
    '../_base_/pipelines/crop_512.py',
    '../_base_/benchmarks/syn2cs.py',
    '../_base_/schedules/eomt.py',
]
train_dataloader = dict(dataset=dict(pipeline={{_base_.train_pipeline_512}}))
# Masks go block after block, from 1/6 to 5/6 of the training.
default_hooks = dict(mask_annealing=dict(type='MaskAnnealingHook'))
