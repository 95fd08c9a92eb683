# What self-training could gain at most without restyling: the generated scenes
# with their true labels instead of the teacher's.
_base_ = './true_labels.py'
train_dataloader = dict(
    dataset=dict(
        _delete_=True,
        type='KeyedDataset',
        datasets=[
            {{_base_.train_toycity_source}},
            {{_base_.train_labelled_scenes}},
        ],
    )
)
