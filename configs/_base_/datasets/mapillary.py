# Piece: val_mapillary.
# Protocol clouds: short edge 1024, compared at the resized size. Pillow's
# resize filters when it shrinks, as the official evaluation's does.
test_pipeline_mapillary = [
    dict(type='LoadSegImage'),
    dict(type='LoadSegLabels'),
    dict(type='Resize', scale=(4096, 1024), keep_ratio=True, backend='pillow'),
    dict(type='EvaluateAtInputSize'),
    dict(type='PackDGInputs'),
]
val_mapillary = dict(
    type='MapillaryDGDataset',
    data_root='data/mapillary',
    split='validation',
    expected=2000,
    pipeline=test_pipeline_mapillary,
)
