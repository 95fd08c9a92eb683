# Piece: train_pipeline_1024. As crop_512.py, of twice the size.
train_pipeline_1024 = [
    dict(type='LoadSegImage'),
    dict(type='LoadSegLabels'),
    dict(
        type='RandomChoiceResize',
        scales=[int(1024 * 0.1 * x) for x in range(5, 21)],
        resize_type='ResizeShortestEdge',
        max_size=4096,
    ),
    dict(type='RandomCrop', crop_size=(1024, 1024), cat_max_ratio=0.75),
    dict(type='RandomFlip', prob=0.5),
    dict(type='FastPhotoMetricDistortion'),
    dict(type='PackDGInputs'),
]
