# Train on SYNTHIA; test on Cityscapes, BDD100K and Mapillary Vistas.
# SYNTHIA has no terrain, truck and train: the mean over the other 16 classes
# is reported beside the mean over all 19.
_base_ = [
    '../datasets/single_image.py',
    '../datasets/synthia.py',
    '../datasets/cityscapes.py',
    '../datasets/bdd100k.py',
    '../datasets/mapillary.py',
]
train_dataloader = dict(
    num_workers=4,
    persistent_workers=True,
    dataset={{_base_.train_synthia}},
)
val_dataloader = dict(
    batch_size=1,
    num_workers=4,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='ConcatDataset',
        pipeline={{_base_.test_pipeline}},
        datasets=[
            {{_base_.val_cityscapes}},
            {{_base_.val_bdd100k}},
            {{_base_.val_mapillary}},
        ],
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(
    type='DGIoUMetric',
    domains=['cityscapes', 'bdd100k', 'mapillary'],
    class_subsets={
        '16': [
            'road',
            'sidewalk',
            'building',
            'wall',
            'fence',
            'pole',
            'traffic light',
            'traffic sign',
            'vegetation',
            'sky',
            'person',
            'rider',
            'car',
            'bus',
            'motorcycle',
            'bicycle',
        ]
    },
    protocol='clouds',
)
test_evaluator = val_evaluator
