# tqdm on EVA02-CLIP-L, SYNTHIA -> Cityscapes, BDD100K, Mapillary Vistas.
# GTA5's schedule, images drawn uniformly: no config of EVA02-CLIP is published
# for this source.
_base_ = [
    '../_base_/default_runtime.py',
    '../_base_/models/tqdm_eva02_large.py',
    '../_base_/pipelines/ratio_512.py',
    '../_base_/benchmarks/syn2cs.py',
    '../_base_/schedules/tqdm.py',
]
train_dataloader = dict(
    dataset=dict(pipeline={{_base_.train_pipeline_512_synthia}})
)
