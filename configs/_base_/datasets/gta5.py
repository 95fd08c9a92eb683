# Piece: train_gta5.
train_pipeline_gta5 = [
    dict(type='LoadSegImage'),
    dict(type='LoadSegLabels'),
    dict(
        type='RandomResize',
        scale=(1914, 1052),
        ratio_range=(0.5, 2.0),
        keep_ratio=True,
    ),
    dict(type='RandomCrop', crop_size=(768, 768)),
    dict(type='RandomFlip', prob=0.5),
    dict(type='FastPhotoMetricDistortion'),
    dict(type='PackDGInputs'),
]
train_gta5 = dict(
    type='GTA5Dataset',
    data_root='data/gta5',
    # A few images differ in size from their label: reading one is an error.
    # tools/verify_dataset.py gta5 --fix takes them out.
    expected=24966,
    pipeline=train_pipeline_gta5,
)
