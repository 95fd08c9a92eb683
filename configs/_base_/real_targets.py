# Test on Cityscapes, BDD100K and Mapillary Vistas, as the synthetic sources
# are.
_base_ = [
    './loaders.py',
    './datasets/cityscapes.py',
    './datasets/bdd100k.py',
    './datasets/mapillary.py',
]
val_dataloader = dict(
    dataset=dict(
        datasets=[
            {{_base_.val_cityscapes}},
            {{_base_.val_bdd100k}},
            {{_base_.val_mapillary}},
        ]
    )
)
test_dataloader = val_dataloader
val_evaluator = dict(domains=['cityscapes', 'bdd100k', 'mapillary'])
test_evaluator = val_evaluator
