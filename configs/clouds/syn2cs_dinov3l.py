# CLOUDS' self-training with Rein on a frozen DINOv3-L,
# SYNTHIA -> Cityscapes, BDD100K, Mapillary Vistas.
# Never run on these data; schedule and crops are those of syn2cs.py.
_base_ = './syn2cs.py'
model = dict(
    data_preprocessor=dict(mean=None, std=None),
    backbone=dict(
        _delete_=True,
        type='TIMMTower',
        model_name='vit_large_patch16_dinov3.lvd1689m',
        pretrained=True,
        frozen=True,
        adapter=dict(type='Rein'),
    ),
    decode_head=dict(queries='backbone'),
)
optim_wrapper = dict(
    # The queries are the adapter's, which like Rein's do not decay.
    paramwise_cfg=dict(
        _delete_=True,
        custom_keys={
            'learnable_tokens': dict(decay_mult=0.0),
            'reins.scale': dict(decay_mult=0.0),
            'level_embed': dict(decay_mult=0.0),
        },
        norm_decay_mult=0.0,
    )
)
