# SegFormer with MiT-B5, Cityscapes -> ACDC.
_base_ = [
    '../_base_/default_runtime.py',
    '../_base_/baselines/segformer_mitb5.py',
    '../_base_/benchmarks/cs2acdc.py',
]
