# clouds/gta2cs.py with images of GTA5 in other weather and light:
# half of those that are drawn are replaced by a variant with the same label.
# Never run on these data: docs/generators.md.
_base_ = ['./gta2cs.py', '../_base_/datasets/restyled.py']
banks = [
    {{_base_.bank_generated}},
    dict(
        _base_.bank_restyled,
        out='data/gta5_restyled',
        # One variant of each image.
        num=24966,
        source='data/gta5/images',
    ),
]
train_dataloader = dict(
    dataset=dict(
        datasets=[
            dict(
                _base_.train_gta5,
                pipeline=[
                    *_base_.train_pipeline_gta5[:2],
                    dict(
                        type='DiffusionAugment',
                        bank='data/gta5_restyled',
                        prob=0.5,
                    ),
                    *_base_.train_pipeline_gta5[2:],
                ],
            ),
            {{_base_.train_generated}},
        ]
    )
)
