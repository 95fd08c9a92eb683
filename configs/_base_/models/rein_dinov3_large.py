# Pieces: rein_dinov3_large, rein_paramwise. A frozen DINOv3-L with Rein, in
# place of the CLIP tower of CLOUDS. Mean and std are the tower's own.
rein_dinov3_large = dict(
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
# The queries are the adapter's, which like Rein's do not decay.
rein_paramwise = dict(
    _delete_=True,
    custom_keys={
        'learnable_tokens': dict(decay_mult=0.0),
        'reins.scale': dict(decay_mult=0.0),
        'level_embed': dict(decay_mult=0.0),
    },
    norm_decay_mult=0.0,
)
