# Mask2Former with ResNet-50, GTA5 -> Cityscapes, BDD100K, Mapillary Vistas.
_base_ = [
    '../_base_/default_runtime.py',
    '../_base_/baselines/mask2former_r50.py',
    '../_base_/benchmarks/gta2cs.py',
]
