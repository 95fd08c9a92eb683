# Pieces: train_generated_toycity, bank_generated_toycity,
# val_generated_toycity, train_restyled_toycity, bank_restyled_toycity,
# val_restyled_toycity, bank_restyled_val_toycity.
# Scenes in looks that no target has, made when training begins.
bank_generated_toycity = dict(
    out='data/toycity/generated',
    num=320,
    num_prompts=100,
    backend='toycity',
    size=(256, 128),
    seed=0,
    # The labels of the scenes are kept apart, to measure pseudo labels with.
    keep_labels=True,
    make=True,
)
train_generated_toycity = dict(
    type='GeneratedDataset',
    bank='data/toycity/generated',
    size=(256, 128),
    pipeline=[
        dict(type='LoadSegImage'),
        dict(type='KeepCleanView'),
        dict(type='RandomFlip', prob=0.5),
        dict(type='FastPhotoMetricDistortion'),
        dict(type='PackDGInputs'),
    ],
)
# Their labels, which nothing trains on.
val_generated_toycity = dict(
    type='GeneratedDataset',
    bank='data/toycity/generated',
    evaluation_labels=True,
    test_mode=True,
    pipeline=[
        dict(type='LoadSegImage'),
        dict(type='LoadSegLabels'),
        dict(type='KeepCleanView'),
        dict(type='PackDGInputs'),
    ],
)
# The source's own images in such looks: their labels stay right.
bank_restyled_toycity = dict(
    out='data/toycity/restyled',
    num=320,
    num_prompts=100,
    backend='toycity',
    mode='img2img',
    source='data/toycity/source/images',
    seed=0,
    make=True,
)
train_restyled_toycity = dict(
    type='GTA5Dataset',
    domain='toycity_source',
    data_root='data/toycity/source',
    pipeline=[
        dict(type='LoadSegImage'),
        dict(type='LoadSegLabels'),
        dict(type='DiffusionAugment', bank='data/toycity/restyled', prob=0.5),
        dict(
            type='RandomResize',
            scale=(256, 128),
            ratio_range=(0.75, 1.75),
            keep_ratio=True,
        ),
        dict(type='RandomCrop', crop_size=(128, 256)),
        dict(type='RandomFlip', prob=0.5),
        dict(type='FastPhotoMetricDistortion'),
        dict(type='PackDGInputs'),
    ],
)
# Held-out images of the source in such looks: a domain shift whose labels are
# known without a target. One variant of each of the 40 images.
bank_restyled_val_toycity = dict(
    bank_restyled_toycity,
    out='data/toycity/restyled_val',
    num=40,
    source='data/toycity/source_val/images',
)
val_restyled_toycity = dict(
    type='GTA5Dataset',
    domain='toycity_source_restyled',
    data_root='data/toycity/source_val',
    pipeline=[
        dict(type='LoadSegImage'),
        dict(type='LoadSegLabels'),
        dict(
            type='DiffusionAugment',
            bank='data/toycity/restyled_val',
            prob=1.0,
        ),
        dict(type='PackDGInputs'),
    ],
)
