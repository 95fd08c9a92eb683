# Source-only training in which half of the labelled photographs are replaced
# by a restyled one, whose labels are the photograph's.
_base_ = './camvid_day2dusk_plus.py'
train_cfg = dict(warmup_iters={{_base_.train_cfg.max_iters}})
train_dataloader = dict(
    dataset=dict(
        datasets=[
            {{_base_.train_restyled_camvid}},
            {{_base_.train_generated_camvid}},
        ]
    )
)
