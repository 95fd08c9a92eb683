# Pieces: val_acdc_fog, val_acdc_night, val_acdc_rain, val_acdc_snow.
# Protocol clouds: short edge 1024, compared at the resized size.
test_pipeline_acdc = [
    dict(type='LoadSegImage'),
    dict(type='LoadSegLabels'),
    dict(type='Resize', scale=(4096, 1024), keep_ratio=True, backend='pillow'),
    dict(type='EvaluateAtInputSize'),
    dict(type='PackDGInputs'),
]
val_acdc_fog = dict(
    type='ACDCDataset',
    data_root='data/acdc',
    condition='fog',
    split='val',
    expected=100,
    pipeline=test_pipeline_acdc,
)
val_acdc_night = dict(val_acdc_fog, condition='night', expected=106)
val_acdc_rain = dict(val_acdc_fog, condition='rain')
val_acdc_snow = dict(val_acdc_fog, condition='snow')
