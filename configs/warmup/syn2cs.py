_base_ = [
    '../_base_/default_runtime.py',
    '../_base_/models/clouds_convnext_large.py',
    '../_base_/benchmarks/syn2cs.py',
    '../_base_/schedules/warmup_synthia.py',
]
