# The zoo's Mask2Former with Swin-B: network, optimiser and schedule.
_base_ = 'mmseg::mask2former/mask2former_swin-b-in22k-384x384-pre_8xb2-90k_cityscapes-512x1024.py'  # noqa: E501
# Data and runtime are not the zoo's.
[
    _base_.pop(key)
    for key in {*_base_}
    - {'model', 'optim_wrapper', 'param_scheduler'}
    - {'train_cfg', 'val_cfg', 'test_cfg'}
]
# The zoo's head needs mmdet. CLOUDSHead is the same network, with the same
# names of its weights.
model = dict(
    type='DGSegmentor',
    data_preprocessor=dict(size=(768, 768)),
    decode_head=dict(
        _delete_=True,
        type='CLOUDSHead',
        in_channels=_base_.model.decode_head.in_channels,
        num_classes=19,
    ),
)
train_cfg = dict(type='ExactTrainLoop')
# What the zoo's processes and images a process come to.
total_batch_size = 16
