# EVA02-CLIP ViT-L/14 at patches of 16 pixels, resized as Rein does.
_base_ = './tower.py'
model = dict(
    backbone=dict(
        model_name='eva02_large_patch14_clip_336.merged2b',
        patch_size=16,
        img_size=512,
        resize='bicubic',
    )
)
