# Piece: val_wilddash2.
# Short edge 1024, compared at the label's own size: the official evaluation
# has not this set.
test_pipeline_wilddash2 = [
    dict(type='LoadSegImage'),
    dict(type='Resize', scale=(4096, 1024), keep_ratio=True, backend='pillow'),
    dict(type='LoadSegLabels'),
    dict(type='PackDGInputs'),
]
val_wilddash2 = dict(
    type='WildDash2Dataset',
    data_root='data/wilddash2',
    expected=4256,
    pipeline=test_pipeline_wilddash2,
)
