_base_ = [
    '../_base_/default_runtime.py',
    '../_base_/models/clouds_convnext_large.py',
    '../_base_/benchmarks/cs2acdc.py',
    '../_base_/schedules/warmup_cityscapes.py',
]
