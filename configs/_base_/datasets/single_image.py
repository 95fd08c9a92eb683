# Piece: test_pipeline, for an image that is no sample of a dataset: what
# MMSegmentation's inference_model and MMSegInferencer run.
# Protocol clouds: short edge 1024; the prediction has the image's own size.
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(4096, 1024), keep_ratio=True, backend='pillow'),
    dict(type='PackSegInputs'),
]
