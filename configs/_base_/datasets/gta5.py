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
    dict(type='PhotoMetricDistortion'),
    dict(type='PackDGInputs'),
]
train_gta5 = dict(
    type='GTA5Dataset',
    data_root='data/gta5',
    # The images whose size differs from their label's must be named in
    # skip=...: tools/train.py --check-data lists them.
    expected=24966,
    pipeline=train_pipeline_gta5,
)
