# Piece: val_idd.
# Short edge 1024, compared at the label's own size: the official evaluation
# has not this set.
test_pipeline_idd = [
    dict(type='LoadSegImage'),
    dict(type='Resize', scale=(4096, 1024), keep_ratio=True, backend='pillow'),
    dict(type='LoadSegLabels'),
    dict(type='PackDGInputs'),
]
val_idd = dict(
    type='IDDDataset',
    data_root='data/idd',
    split='val',
    expected=981,
    pipeline=test_pipeline_idd,
)
