# The official optimiser. `lr` is set by the benchmark's schedule.
embedding = dict(lr_mult=1.0, decay_mult=0.0)
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(
        type='AdamW',
        lr=1e-5,
        weight_decay=0.05,
        betas=(0.9, 0.999),
        # One pass over each parameter. The exceptions below give every
        # parameter a group of its own, where foreach has nothing to gather.
        fused=True,
    ),
    clip_grad=dict(max_norm=0.01, norm_type=2),
    paramwise_cfg=dict(
        custom_keys=dict(
            query_embed=embedding, query_feat=embedding, level_embed=embedding
        ),
        norm_decay_mult=0.0,
    ),
)
# Images in an optimiser step, over all processes: the runner divides it, so
# train_dataloader has no batch_size.
total_batch_size = 8
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
