# DINOv2 ViT-L/14 with four registers (Apache-2.0), at patches of 16 pixels.
_base_ = './tower.py'
model = dict(
    backbone=dict(
        model_name='vit_large_patch14_reg4_dinov2.lvd142m',
        patch_size=16,
        img_size=512,
    )
)
