# Piece: train_pipeline_512. The training images of Rein and SoMA: the short
# edge in steps of a tenth of 512, then crops of 512.
train_pipeline_512 = [
    dict(type='LoadSegImage'),
    dict(type='LoadSegLabels'),
    dict(
        type='RandomChoiceResize',
        scales=[int(512 * 0.1 * x) for x in range(5, 21)],
        resize_type='ResizeShortestEdge',
        max_size=2048,
    ),
    dict(type='RandomCrop', crop_size=(512, 512), cat_max_ratio=0.75),
    dict(type='RandomFlip', prob=0.5),
    dict(type='FastPhotoMetricDistortion'),
    dict(type='PackDGInputs'),
]
