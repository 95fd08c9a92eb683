# Piece: val_nighttime_driving.
# Short edge 1024, compared at the label's own size: the official evaluation
# has not this set.
test_pipeline_nighttime_driving = [
    dict(type='LoadSegImage'),
    dict(type='Resize', scale=(4096, 1024), keep_ratio=True, backend='pillow'),
    dict(type='LoadSegLabels'),
    dict(type='PackDGInputs'),
]
val_nighttime_driving = dict(
    type='NighttimeDrivingDataset',
    data_root='data/nighttime_driving',
    split='test',
    expected=50,
    pipeline=test_pipeline_nighttime_driving,
)
