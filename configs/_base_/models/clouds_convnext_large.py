# CLOUDS' network: a frozen CLIP ConvNeXt-L tower under a Mask2Former head.
# The head's input widths are asked of the tower.
data_preprocessor = dict(
    type='SegDataPreProcessor',
    # CLIP's statistics, RGB in [0, 255].
    mean=[122.7709383, 116.7460125, 104.09373615],
    std=[68.5005327, 66.6321579, 70.32316305],
    bgr_to_rgb=True,
    pad_val=0,
    seg_pad_val=255,
    size=(768, 768),
    test_cfg=dict(size_divisor=32),
)
model = dict(
    type='DGSegmentor',
    data_preprocessor=data_preprocessor,
    backbone=dict(
        type='CLIPBackbone',
        model_name='convnext_large_d_320',
        pretrained='laion2b_s29b_b131k_ft_soup',
        frozen=True,
    ),
    decode_head=dict(
        type='CLOUDSHead',
        num_classes=19,
        classifier=dict(type='linear'),
    ),
    train_cfg=dict(),
    test_cfg=dict(mode='whole'),
)
