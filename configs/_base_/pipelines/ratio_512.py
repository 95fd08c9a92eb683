# Pieces: train_pipeline_512_gta5, _synthia, _cityscapes. The training images
# of tqdm: 0.5 to 2 times their size, then crops of 512.
_widths = dict(gta5=(1914, 1052), synthia=(1280, 760), cityscapes=(2048, 1024))
_pipelines = {
    name: [
        dict(type='LoadSegImage'),
        dict(type='LoadSegLabels'),
        dict(
            type='RandomResize',
            scale=scale,
            ratio_range=(0.5, 2.0),
            keep_ratio=True,
        ),
        dict(type='RandomCrop', crop_size=(512, 512), cat_max_ratio=0.75),
        dict(type='RandomFlip', prob=0.5),
        dict(type='FastPhotoMetricDistortion'),
        dict(type='PackDGInputs'),
    ]
    for name, scale in _widths.items()
}
train_pipeline_512_gta5 = _pipelines['gta5']
train_pipeline_512_synthia = _pipelines['synthia']
train_pipeline_512_cityscapes = _pipelines['cityscapes']
del _widths, _pipelines
