# Pieces: train_cityscapes, val_cityscapes.
train_pipeline_cityscapes = [
    dict(type='LoadSegImage'),
    dict(type='LoadSegLabels'),
    dict(
        type='RandomResize',
        scale=(2048, 1024),
        ratio_range=(0.5, 2.0),
        keep_ratio=True,
    ),
    dict(type='RandomCrop', crop_size=(768, 768)),
    dict(type='RandomFlip', prob=0.5),
    dict(type='FastPhotoMetricDistortion'),
    dict(type='PackDGInputs'),
]
# Protocol clouds: short edge 1024 (the images have it already), compared at
# the label's own size.
test_pipeline_cityscapes = [
    dict(type='LoadSegImage'),
    dict(type='Resize', scale=(4096, 1024), keep_ratio=True, backend='pillow'),
    dict(type='LoadSegLabels'),
    dict(type='PackDGInputs'),
]
train_cityscapes = dict(
    type='CityscapesDGDataset',
    data_root='data/cityscapes',
    split='train',
    expected=2975,
    pipeline=train_pipeline_cityscapes,
)
val_cityscapes = dict(
    type='CityscapesDGDataset',
    data_root='data/cityscapes',
    split='val',
    expected=500,
    pipeline=test_pipeline_cityscapes,
)
