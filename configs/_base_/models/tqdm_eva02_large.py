# tqdm (ECCV 2024): EVA02-CLIP ViT-L/14, trained as a whole, and queries made
# of the text of the classes. Patches of 14 pixels: 36 x 36 of 512 pixels, the
# last eight rows and columns dropped, as published.
_base_ = ['./tower.py']
model = dict(
    backbone=dict(
        type='TIMMCLIPTower',
        model_name='eva02_large_patch14_clip_336.merged2b',
        img_size=512,
        resize='bicubic',
        frozen=False,
        # What the regularisation of the image's feature compares with.
        keep_initial=True,
    ),
    decode_head=dict(
        type='TextQueryHead',
        encoder_ffn_channels=2048,
        text=dict(
            model_name='EVA02-L-14-336',
            pretrained='merged2b_s6b_b61k',
            classes=[
                *('road', 'sidewalk', 'building', 'wall', 'fence', 'pole'),
                *('traffic light', 'traffic sign', 'vegetation', 'terrain'),
                *('sky', 'person', 'rider', 'car', 'truck', 'bus', 'train'),
                *('motorcycle', 'bicycle'),
            ],
        ),
    ),
)
