# Self-training with generated images and refined labels; the source is not
# restyled.
_base_ = '../clouds.py'
train_dataloader = dict(
    dataset=dict(
        _delete_=True,
        type='KeyedDataset',
        datasets=[
            {{_base_.train_toycity_source}},
            {{_base_.train_generated_toycity}},
        ],
    )
)
