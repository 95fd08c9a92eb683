# UPerNet with ConvNeXt-B, SYNTHIA -> Cityscapes, BDD100K, Mapillary Vistas.
_base_ = [
    '../_base_/default_runtime.py',
    '../_base_/baselines/upernet_convnextb.py',
    '../_base_/benchmarks/syn2cs.py',
]
