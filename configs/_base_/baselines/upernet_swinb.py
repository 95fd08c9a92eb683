# The zoo's UPerNet with Swin-B: network, optimiser and schedule.
_base_ = 'mmseg::swin/swin-base-patch4-window7-in1k-pre_upernet_8xb2-160k_ade20k-512x512.py'  # noqa: E501
# Data and runtime are not the zoo's.
[
    _base_.pop(key)
    for key in {*_base_}
    - {'model', 'optim_wrapper', 'param_scheduler'}
    - {'train_cfg', 'val_cfg', 'test_cfg'}
]
# The zoo trains this model on the 150 classes of ADE20K only.
model = dict(
    type='DGSegmentor',
    data_preprocessor=dict(size=(768, 768)),
    decode_head=dict(num_classes=19),
    auxiliary_head=dict(num_classes=19),
)
train_cfg = dict(type='ExactTrainLoop')
# What the zoo's processes and images a process come to.
total_batch_size = 16
