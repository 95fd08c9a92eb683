# SegNeXt with MSCAN-B, Cityscapes -> ACDC.
_base_ = [
    '../_base_/default_runtime.py',
    '../_base_/baselines/segnext_mscanb.py',
    '../_base_/benchmarks/cs2acdc.py',
]
