# DeepLabV3+ with ResNet-50, Cityscapes -> ACDC.
_base_ = [
    '../_base_/default_runtime.py',
    '../_base_/baselines/deeplabv3plus_r50.py',
    '../_base_/benchmarks/cs2acdc.py',
]
