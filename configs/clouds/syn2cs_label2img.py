# clouds/syn2cs.py with images made from the label maps of SYNTHIA: half of
# the labelled images that are drawn are replaced by one made from their label.
# Never run on these data: docs/generators.md.
_base_ = ['./syn2cs.py', '../_base_/datasets/restyled.py']
banks = [
    {{_base_.bank_generated}},
    dict(
        _base_.bank_from_labels,
        out='data/synthia_from_labels',
        # One image of each label map.
        num=9400,
        dataset='synthia',
        data_root='data/synthia',
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
                        bank='data/synthia_from_labels',
                        prob=0.5,
                    ),
                    *_base_.train_pipeline_synthia[2:],
                ],
            ),
            {{_base_.train_generated}},
        ]
    )
)
