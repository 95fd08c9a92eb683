# The zoo's DeepLabV3+ with ResNet-18: network, optimiser and schedule.
_base_ = (
    'mmseg::deeplabv3plus/deeplabv3plus_r18-d8_4xb2-80k_cityscapes-512x1024.py'  # noqa: E501
)
# Data and runtime are not the zoo's.
[
    _base_.pop(key)
    for key in {*_base_}
    - {'model', 'optim_wrapper', 'param_scheduler'}
    - {'train_cfg', 'val_cfg', 'test_cfg'}
]
model = dict(type='DGSegmentor', data_preprocessor=dict(size=(768, 768)))
train_cfg = dict(type='ExactTrainLoop')
# What the zoo's processes and images a process come to.
total_batch_size = 8
