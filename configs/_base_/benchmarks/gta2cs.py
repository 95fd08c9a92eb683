# Train on GTA5; test on Cityscapes, BDD100K and Mapillary Vistas.
_base_ = [
    '../datasets/single_image.py',
    '../datasets/gta5.py',
    '../datasets/cityscapes.py',
    '../datasets/bdd100k.py',
    '../datasets/mapillary.py',
]
train_dataloader = dict(
    num_workers=4,
    persistent_workers=True,
    dataset={{_base_.train_gta5}},
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
    protocol='clouds',
)
test_evaluator = val_evaluator
