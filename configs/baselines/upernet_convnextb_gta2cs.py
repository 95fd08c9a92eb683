# UPerNet with ConvNeXt-B, GTA5 -> Cityscapes, BDD100K, Mapillary Vistas.
_base_ = [
    '../_base_/default_runtime.py',
    '../_base_/baselines/upernet_convnextb.py',
    '../_base_/benchmarks/gta2cs.py',
]
