# UPerNet with ConvNeXt-B, Cityscapes -> ACDC.
_base_ = [
    '../_base_/default_runtime.py',
    '../_base_/baselines/upernet_convnextb.py',
    '../_base_/benchmarks/cs2acdc.py',
]
