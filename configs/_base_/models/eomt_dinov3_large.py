# EoMT: a trained DINOv3 ViT-L/16 whose last four blocks see the queries.
# With the biases of queries and values, which begin as zeros and are trained.
_base_ = './dinov3_large.py'
model = dict(
    backbone=dict(
        model_name='vit_large_patch16_dinov3_qkvb.lvd1689m',
        frozen=False,
        output='tokens',
        open_blocks=4,
    ),
    decode_head=dict(_delete_=True, type='EoMTHead', num_classes=19),
)
