# Piece: val_dark_zurich.
# Short edge 1024, compared at the label's own size: the official evaluation
# has not this set.
test_pipeline_dark_zurich = [
    dict(type='LoadSegImage'),
    dict(type='Resize', scale=(4096, 1024), keep_ratio=True, backend='pillow'),
    dict(type='LoadSegLabels'),
    dict(type='PackDGInputs'),
]
val_dark_zurich = dict(
    type='DarkZurichDGDataset',
    data_root='data/dark_zurich',
    split='val',
    expected=50,
    pipeline=test_pipeline_dark_zurich,
)
