# Mask2Former with ResNet-50, SYNTHIA -> Cityscapes, BDD100K, Mapillary Vistas.
_base_ = [
    '../_base_/default_runtime.py',
    '../_base_/baselines/mask2former_r50.py',
    '../_base_/benchmarks/syn2cs.py',
]
