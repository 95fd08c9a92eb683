# Piece: train_synthia.
train_pipeline_synthia = [
    dict(type='LoadSegImage'),
    dict(type='LoadSegLabels'),
    dict(
        type='RandomResize',
        scale=(1280, 760),
        ratio_range=(0.5, 2.0),
        keep_ratio=True,
    ),
    dict(type='RandomCrop', crop_size=(768, 768)),
    dict(type='RandomFlip', prob=0.5),
    dict(type='FastPhotoMetricDistortion'),
    dict(type='PackDGInputs'),
]
train_synthia = dict(
    type='SYNTHIADataset',
    data_root='data/synthia',
    expected=9400,
    pipeline=train_pipeline_synthia,
)
