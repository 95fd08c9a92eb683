# clouds/syn2cs.py with images of SYNTHIA in other weather and light:
# half of those that are drawn are replaced by a variant with the same label.
# Never run on these data: docs/generators.md.
_base_ = ['./syn2cs.py', '../_base_/datasets/restyled.py']
banks = [
    {{_base_.bank_generated}},
    dict(
        _base_.bank_restyled,
        out='data/synthia_restyled',
        # One variant of each image.
        num=9400,
        source='data/synthia/RGB',
    ),
]
train_dataloader = dict(
    dataset=dict(
        datasets=[
            dict(
                _base_.train_synthia,
                pipeline=[
                    *_base_.train_pipeline_synthia[:2],
                    dict(
                        type='DiffusionAugment',
                        bank='data/synthia_restyled',
                        prob=0.5,
                    ),
                    *_base_.train_pipeline_synthia[2:],
                ],
            ),
            {{_base_.train_generated}},
        ]
    )
)
