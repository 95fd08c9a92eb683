# clouds/cs2acdc.py with images made from the label maps of Cityscapes: half of
# the labelled images that are drawn are replaced by one made from their label.
# Never run on these data: docs/generators.md.
_base_ = ['./cs2acdc.py', '../_base_/datasets/restyled.py']
banks = [
    {{_base_.bank_generated}},
    dict(
        _base_.bank_from_labels,
        out='data/cityscapes_from_labels',
        # One image of each label map.
        num=2975,
        dataset='cityscapes',
        data_root='data/cityscapes',
    ),
]
train_dataloader = dict(
    dataset=dict(
        datasets=[
            dict(
                _base_.train_cityscapes,
                pipeline=[
                    *_base_.train_pipeline_cityscapes[:2],
                    dict(
                        type='DiffusionAugment',
                        bank='data/cityscapes_from_labels',
                        prob=0.5,
                    ),
                    *_base_.train_pipeline_cityscapes[2:],
                ],
            ),
            {{_base_.train_generated}},
        ]
    )
)
