# The zoo's SegFormer with MiT-B5: network, optimiser and schedule.
_base_ = 'mmseg::segformer/segformer_mit-b5_8xb1-160k_cityscapes-1024x1024.py'
# Data and runtime are not the zoo's.
[
    _base_.pop(key)
    for key in {*_base_}
    - {'model', 'optim_wrapper', 'param_scheduler'}
    - {'train_cfg', 'val_cfg', 'test_cfg'}
]
# The protocol is the benchmark's, without windows.
model = dict(
    type='DGSegmentor',
    data_preprocessor=dict(size=(768, 768)),
    test_cfg=dict(_delete_=True, mode='whole'),
)
train_cfg = dict(type='ExactTrainLoop')
# What the zoo's processes and images a process come to.
total_batch_size = 8
