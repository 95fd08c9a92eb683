# clouds/cs2acdc.py with images of Cityscapes in other weather and light:
# half of those that are drawn are replaced by a variant with the same label.
# Never run on these data: docs/generators.md.
_base_ = ['./cs2acdc.py', '../_base_/datasets/restyled.py']
banks = [
    {{_base_.bank_generated}},
    dict(
        _base_.bank_restyled,
        out='data/cityscapes_restyled',
        # One variant of each image.
        num=2975,
        source='data/cityscapes/leftImg8bit/train',
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
                        bank='data/cityscapes_restyled',
                        prob=0.5,
                    ),
                    *_base_.train_pipeline_cityscapes[2:],
                ],
            ),
            {{_base_.train_generated}},
        ]
    )
)
