# Pieces: train_generated_toycity, bank_generated_toycity.
# Scenes in looks that no target has, made when training begins.
bank_generated_toycity = dict(
    out='data/toycity/generated',
    num=320,
    num_prompts=100,
    backend='toycity',
    size=(256, 128),
    seed=0,
    # The labels of the scenes are kept apart, to measure pseudo labels with.
    keep_labels=True,
    make=True,
)
train_generated_toycity = dict(
    type='GeneratedDataset',
    bank='data/toycity/generated',
    size=(256, 128),
    pipeline=[
        dict(type='LoadSegImage'),
        dict(type='KeepCleanView'),
        dict(type='RandomFlip', prob=0.5),
        dict(type='PhotoMetricDistortion'),
        dict(type='PackDGInputs'),
    ],
)
