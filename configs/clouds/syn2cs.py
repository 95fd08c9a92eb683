# SYNTHIA -> Cityscapes, BDD100K, Mapillary: warm-up, self-training.
_base_ = [
    '../_base_/self_training.py',
    '../_base_/benchmarks/syn2cs.py',
    '../_base_/schedules/warmup_synthia.py',
]
train_dataloader = dict(
    dataset=dict(
        _delete_=True,
        type='KeyedDataset',
        datasets=[{{_base_.train_synthia}}, {{_base_.train_generated}}],
    )
)
train_cfg = dict(
    type='SelfTrainingLoop',
    warmup_iters=30000,
    max_iters=60000,
    # 5,000 images at the official sampling weight 0.7 beside 9,400.
    generated_share=0.2713,
)
# Each stage has its own decay, from 1e-5 down to 0.
param_scheduler = [
    dict(type='PolyRestartLR', power=0.9, period=30000, by_epoch=False)
]
