# tqdm on EVA02-CLIP-L, Cityscapes -> ACDC. Rate and weight decay are those of
# its Cityscapes -> BDD100K, Mapillary; nothing is published for ACDC.
# Images are drawn uniformly.
_base_ = [
    '../_base_/default_runtime.py',
    '../_base_/models/tqdm_eva02_large.py',
    '../_base_/pipelines/ratio_512.py',
    '../_base_/benchmarks/cs2acdc.py',
    '../_base_/schedules/tqdm.py',
]
train_dataloader = dict(
    dataset=dict(pipeline={{_base_.train_pipeline_512_cityscapes}})
)
no_decay = dict(decay_mult=0.0)
optim_wrapper = dict(
    optimizer=dict(lr=1e-4, weight_decay=1e-5),
    paramwise_cfg=dict(
        custom_keys=dict(level_embed=no_decay, query_embed=no_decay)
    ),
)
