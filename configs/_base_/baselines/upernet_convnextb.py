# The zoo's UPerNet with ConvNeXt-B: network, optimiser and schedule.
_base_ = (
    'mmseg::convnext/convnext-base_upernet_8xb2-amp-160k_ade20k-512x512.py'  # noqa: E501
)
# Data and runtime are not the zoo's.
[
    _base_.pop(key)
    for key in {*_base_}
    - {'model', 'optim_wrapper', 'param_scheduler'}
    - {'train_cfg', 'val_cfg', 'test_cfg'}
]
# The zoo's backbone needs mmpretrain. This is timm's of the same architecture
# and data, which has no normalisation after each map.
model = dict(
    type='DGSegmentor',
    data_preprocessor=dict(size=(768, 768)),
    backbone=dict(
        _delete_=True,
        type='FrozenTIMMBackbone',
        model_name='convnext_base.fb_in1k',
        pretrained=True,
        frozen=False,
        drop_path_rate=0.4,
    ),
    decode_head=dict(num_classes=19),
    auxiliary_head=dict(num_classes=19),
    test_cfg=dict(_delete_=True, mode='whole'),
)
# The zoo's rates, each stage 0.9 times the next one's, but not by its
# constructor, which knows no other backbone: norms in it are decayed here.
# The zoo trains in float16; --amp is bfloat16.
optim_wrapper = dict(
    _delete_=True,
    type='OptimWrapper',
    optimizer=_base_.optim_wrapper.optimizer,
    paramwise_cfg=dict(
        norm_decay_mult=0.0,
        bias_decay_mult=0.0,
        custom_keys={
            'backbone': dict(lr_mult=0.9**13),
            **{
                f'timm_model.stages_{i}': dict(lr_mult=0.9 ** (12 - i))
                for i in range(4)
            },
        },
    ),
)
train_cfg = dict(type='ExactTrainLoop')
# What the zoo's processes and images a process come to.
total_batch_size = 16
