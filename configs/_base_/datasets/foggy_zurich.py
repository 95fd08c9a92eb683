# Piece: val_foggy_zurich.
# Short edge 1024, compared at the label's own size: the official evaluation
# has not this set.
test_pipeline_foggy_zurich = [
    dict(type='LoadSegImage'),
    dict(type='Resize', scale=(4096, 1024), keep_ratio=True, backend='pillow'),
    dict(type='LoadSegLabels'),
    dict(type='PackDGInputs'),
]
val_foggy_zurich = dict(
    type='FoggyZurichDataset',
    data_root='data/foggy_zurich',
    expected=40,
    pipeline=test_pipeline_foggy_zurich,
)
