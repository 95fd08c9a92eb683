# Control for mixing: in place of two generated images, two labelled ones onto
# which other labelled images are pasted.
_base_ = './self_training.py'
model = dict(mixing=dict(type='ClassMix', domains=['mixed']))
# The first stage of source.py, which draws from its first group alone.
resume_cfg = dict(accept=['train_dataloader.dataset'])
train_dataloader = dict(
    dataset=dict(
        _delete_=True,
        type='KeyedDataset',
        datasets=[
            {{_base_.train_toycity_source}},
            dict(
                type='GTA5Dataset',
                domain='mixed',
                data_root='data/toycity/source',
                pipeline={{_base_.train_pipeline_toycity}},
            ),
        ],
    )
)
