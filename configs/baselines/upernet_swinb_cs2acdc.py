# UPerNet with Swin-B, Cityscapes -> ACDC.
_base_ = [
    '../_base_/default_runtime.py',
    '../_base_/baselines/upernet_swinb.py',
    '../_base_/benchmarks/cs2acdc.py',
]
