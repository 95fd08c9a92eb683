# Loaders, sizes and schedule for images and classes of your own. What a config
# adds: folders and classes; see configs/custom/my_dataset.py.
_base_ = ['../loaders_native.py', '../schedules/adamw.py']
# Pieces: train_pipeline_folders, test_pipeline_folders.
train_pipeline_folders = [
    dict(type='LoadSegImage'),
    dict(type='LoadSegLabels'),
    # Short edge 512, half to twice of it, whatever the images' size.
    dict(
        type='RandomResize',
        scale=(4096, 512),
        ratio_range=(0.5, 2.0),
        keep_ratio=True,
    ),
    dict(type='RandomCrop', crop_size=(512, 512), cat_max_ratio=0.75),
    dict(type='RandomFlip', prob=0.5),
    dict(type='FastPhotoMetricDistortion'),
    dict(type='PackDGInputs'),
]
# Protocol native: whole images, compared at their own size.
test_pipeline_folders = [
    dict(type='LoadSegImage'),
    dict(type='LoadSegLabels'),
    dict(type='PackDGInputs'),
]
train_dataloader = dict(
    dataset=dict(type='FolderDataset', pipeline=train_pipeline_folders)
)
# A fresh head on a small network; the official schedule has 1e-5.
optim_wrapper = dict(optimizer=dict(lr=1e-3))
train_cfg = dict(type='ExactTrainLoop', max_iters=4000, val_interval=1000)
param_scheduler = [
    dict(
        type='PolyRestartLR',
        power=0.9,
        period=4000,
        warmup=100,
        by_epoch=False,
    )
]
