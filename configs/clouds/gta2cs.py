# GTA5 -> Cityscapes, BDD100K, Mapillary: warm-up, then self-training.
_base_ = [
    '../_base_/self_training.py',
    '../_base_/benchmarks/gta2cs.py',
    '../_base_/schedules/warmup_gta5.py',
]
train_dataloader = dict(
    dataset=dict(
        _delete_=True,
        type='KeyedDataset',
        datasets=[{{_base_.train_gta5}}, {{_base_.train_generated}}],
    )
)
train_cfg = dict(
    type='SelfTrainingLoop',
    warmup_iters=40000,
    max_iters=80000,
    # 5,000 images at the official sampling weight 2.0 beside 24,904.
    generated_share=0.2865,
)
