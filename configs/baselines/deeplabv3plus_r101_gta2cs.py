# DeepLabV3+ with ResNet-101, GTA5 -> Cityscapes, BDD100K, Mapillary Vistas.
_base_ = [
    '../_base_/default_runtime.py',
    '../_base_/baselines/deeplabv3plus_r101.py',
    '../_base_/benchmarks/gta2cs.py',
]
