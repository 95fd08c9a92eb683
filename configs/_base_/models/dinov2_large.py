# DINOv2 ViT-L/14 without registers (Apache-2.0), as Rein and SoMA use it:
# patches of 16 pixels and a position table of 32x32, both resized plainly.
_base_ = './tower.py'
model = dict(
    backbone=dict(
        model_name='vit_large_patch14_dinov2.lvd142m',
        patch_size=16,
        img_size=512,
        resize='bicubic',
    )
)
