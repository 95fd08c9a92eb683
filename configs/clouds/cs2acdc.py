# Cityscapes -> ACDC, each weather: warm-up, then self-training.
_base_ = [
    '../_base_/self_training.py',
    '../_base_/benchmarks/cs2acdc.py',
    '../_base_/schedules/warmup_cityscapes.py',
]
train_dataloader = dict(
    dataset=dict(
        _delete_=True,
        type='KeyedDataset',
        datasets=[{{_base_.train_cityscapes}}, {{_base_.train_generated}}],
    )
)
train_cfg = dict(
    type='SelfTrainingLoop',
    warmup_iters=5000,
    max_iters=15000,
    # 5,000 images at the official sampling weight 0.2 beside 2,975.
    generated_share=0.2516,
)
