# Train on SYNTHIA; test on Cityscapes, BDD100K and Mapillary Vistas.
_base_ = ['../real_targets.py', '../datasets/synthia.py']
train_dataloader = dict(dataset={{_base_.train_synthia}})
# SYNTHIA has no terrain, truck and train: the mean over the other 16 classes
# is reported beside the mean over all 19.
val_evaluator = dict(
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
    }
)
test_evaluator = val_evaluator
