# Pieces: train_camvid_day, val_camvid_day, val_camvid_dusk,
# train_restyled_camvid, train_generated_camvid, bank_restyled_camvid.
# An example of your own images and classes: 24 day and 12 dusk photographs,
# 480x360, in CamVid's 11 classes. The environment variable CAMVID_ROOT, or
# --cfg-options dataset_options.all.data_root=FOLDER, says where they are.
data_root_camvid = '{{$CAMVID_ROOT:data/camvid_mini}}'
metainfo_camvid = dict(
    classes=[
        'sky',
        'building',
        'pole',
        'road',
        'pavement',
        'tree',
        'sign',
        'fence',
        'car',
        'pedestrian',
        'bicyclist',
    ],
    palette=[
        [128, 128, 128],
        [128, 0, 0],
        [192, 192, 128],
        [128, 64, 128],
        [60, 40, 222],
        [128, 128, 0],
        [192, 128, 128],
        [64, 64, 128],
        [64, 0, 128],
        [64, 64, 0],
        [0, 128, 192],
    ],
)
train_pipeline_camvid = [
    dict(type='LoadSegImage'),
    dict(type='LoadSegLabels'),
    dict(
        type='RandomResize',
        scale=(480, 360),
        ratio_range=(0.75, 2.0),
        keep_ratio=True,
    ),
    dict(type='RandomCrop', crop_size=(256, 256), cat_max_ratio=0.75),
    dict(type='RandomFlip', prob=0.5),
    dict(type='FastPhotoMetricDistortion'),
    dict(type='PackDGInputs'),
]
# Protocol native: compared at the size of the photographs.
test_pipeline_camvid = [
    dict(type='LoadSegImage'),
    dict(type='LoadSegLabels'),
    dict(type='PackDGInputs'),
]
train_camvid_day = dict(
    type='FolderDataset',
    domain='camvid_day',
    metainfo=metainfo_camvid,
    data_root=data_root_camvid,
    data_prefix=dict(img_path='images/day', seg_map_path='labels/day'),
    # 11 is CamVid's "unlabelled".
    ignored=[11],
    pipeline=train_pipeline_camvid,
)
val_camvid_day = dict(train_camvid_day, pipeline=test_pipeline_camvid)
val_camvid_dusk = dict(
    val_camvid_day,
    domain='camvid_dusk',
    data_prefix=dict(img_path='images/dusk', seg_map_path='labels/dusk'),
)
# The day photographs in other light and weather, by operations on pixels: no
# weights are needed. Each of the ten styles for each of them.
bank_restyled_camvid = dict(
    out='data/camvid_photometric',
    num=240,
    backend='photometric',
    mode='img2img',
    source=f'{data_root_camvid}/images/day',
    seed=0,
    make=True,
)
# With the labels of the photographs, which stay right ...
train_restyled_camvid = dict(
    train_camvid_day,
    pipeline=[
        *train_pipeline_camvid[:2],
        dict(
            type='DiffusionAugment', bank='data/camvid_photometric', prob=0.5
        ),
        *train_pipeline_camvid[2:],
    ],
)
# ... and without any, for self-training.
train_generated_camvid = dict(
    type='GeneratedDataset',
    bank='data/camvid_photometric',
    metainfo=metainfo_camvid,
    pipeline=[
        dict(type='LoadSegImage'),
        dict(
            type='RandomResize',
            scale=(480, 360),
            ratio_range=(0.75, 2.0),
            keep_ratio=True,
        ),
        dict(type='RandomCrop', crop_size=(256, 256)),
        dict(type='KeepCleanView'),
        dict(type='RandomFlip', prob=0.5),
        dict(type='FastPhotoMetricDistortion'),
        dict(type='PackDGInputs'),
    ],
)
