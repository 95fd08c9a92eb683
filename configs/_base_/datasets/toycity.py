# Pieces: train_toycity_source, val_toycity_source, val_toycity_clear,
# val_toycity_fog, val_toycity_night, val_toycity_rain, val_toycity_snow.
# Made by tools/make_toycity.py: 256x128, in the layouts of GTA5 (source),
# Cityscapes (clear) and ACDC (the rest).
train_pipeline_toycity = [
    dict(type='LoadSegImage'),
    dict(type='LoadSegLabels'),
    dict(
        type='RandomResize',
        scale=(256, 128),
        ratio_range=(0.75, 1.75),
        keep_ratio=True,
    ),
    dict(type='RandomCrop', crop_size=(128, 256)),
    dict(type='RandomFlip', prob=0.5),
    dict(type='FastPhotoMetricDistortion'),
    dict(type='PackDGInputs'),
]
# Protocol native: short edge 1024 would enlarge these images eight times.
test_pipeline_toycity = [
    dict(type='LoadSegImage'),
    dict(type='LoadSegLabels'),
    dict(type='PackDGInputs'),
]
train_toycity_source = dict(
    type='GTA5Dataset',
    domain='toycity_source',
    data_root='data/toycity/source',
    pipeline=train_pipeline_toycity,
)
val_toycity_source = dict(
    type='GTA5Dataset',
    domain='toycity_source',
    data_root='data/toycity/source_val',
    pipeline=test_pipeline_toycity,
)
val_toycity_clear = dict(
    type='CityscapesDGDataset',
    domain='toycity_clear',
    data_root='data/toycity/clear',
    split='val',
    pipeline=test_pipeline_toycity,
)
val_toycity_fog = dict(
    type='ACDCDataset',
    domain='toycity_fog',
    data_root='data/toycity/acdc',
    condition='fog',
    split='val',
    pipeline=test_pipeline_toycity,
)
val_toycity_night = dict(
    val_toycity_fog, domain='toycity_night', condition='night'
)
val_toycity_rain = dict(
    val_toycity_fog, domain='toycity_rain', condition='rain'
)
val_toycity_snow = dict(
    val_toycity_fog, domain='toycity_snow', condition='snow'
)
