# clouds/gta2cs.py with images made from the label maps of GTA5: half of
# the labelled images that are drawn are replaced by one made from their label.
# Never run on these data: docs/generators.md.
_base_ = ['./gta2cs.py', '../_base_/datasets/restyled.py']
banks = [
    {{_base_.bank_generated}},
    dict(
        _base_.bank_from_labels,
        out='data/gta5_from_labels',
        # One image of each label map.
        num=24966,
        dataset='gta5',
        data_root='data/gta5',
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
                        bank='data/gta5_from_labels',
                        prob=0.5,
                    ),
                    *_base_.train_pipeline_gta5[2:],
                ],
            ),
            {{_base_.train_generated}},
        ]
    )
)
