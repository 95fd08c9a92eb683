# Pieces: train_urbansyn, val_urbansyn.
# The augmentation of the other sources; the official code has not this one.
train_pipeline_urbansyn = [
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
# Short edge 1024 (the images have it already), compared at the label's size.
test_pipeline_urbansyn = [
    dict(type='LoadSegImage'),
    dict(type='Resize', scale=(4096, 1024), keep_ratio=True, backend='pillow'),
    dict(type='LoadSegLabels'),
    dict(type='PackDGInputs'),
]
train_urbansyn = dict(
    type='UrbanSynDataset',
    data_root='data/urbansyn',
    expected=7539,
    pipeline=train_pipeline_urbansyn,
)
val_urbansyn = dict(
    type='UrbanSynDataset',
    data_root='data/urbansyn',
    expected=7539,
    pipeline=test_pipeline_urbansyn,
)
