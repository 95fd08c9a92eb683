# Control for mixing on top of restyling: in place of two generated images, two
# labelled ones onto which other labelled images are pasted.
_base_ = './labelled_mixed.py'
train_dataloader = dict(
    dataset=dict(
        _delete_=True,
        type='KeyedDataset',
        datasets=[
            {{_base_.train_restyled_toycity}},
            dict(
                type='GTA5Dataset',
                domain='mixed',
                data_root='data/toycity/source',
                pipeline={{_base_.train_restyled_toycity.pipeline}},
            ),
        ],
    )
)
