# Piece: val_bdd100k.
# Protocol clouds: short edge 1024, compared at the resized size. Pillow's
# resize filters when it shrinks, as the official evaluation's does.
test_pipeline_bdd100k = [
    dict(type='LoadSegImage'),
    dict(type='LoadSegLabels'),
    dict(type='Resize', scale=(4096, 1024), keep_ratio=True, backend='pillow'),
    dict(type='EvaluateAtInputSize'),
    dict(type='PackDGInputs'),
]
val_bdd100k = dict(
    type='BDD100KDGDataset',
    data_root='data/bdd100k',
    split='val',
    expected=1000,
    pipeline=test_pipeline_bdd100k,
)
