# What self-training could gain at most here: the generated scenes with their
# true labels instead of the teacher's.
_base_ = '../clouds.py'
# The first stage of restyling.py, which draws from its first group alone.
resume_cfg = dict(accept=['train_dataloader.dataset'])
train_labelled_scenes = dict(
    type='GeneratedDataset',
    bank='data/toycity/generated',
    evaluation_labels=True,
    pipeline=[
        dict(type='LoadSegImage'),
        dict(type='LoadSegLabels'),
        dict(type='RandomFlip', prob=0.5),
        dict(type='FastPhotoMetricDistortion'),
        dict(type='PackDGInputs'),
    ],
)
train_dataloader = dict(
    dataset=dict(
        _delete_=True,
        type='KeyedDataset',
        datasets=[{{_base_.train_restyled_toycity}}, train_labelled_scenes],
    )
)
