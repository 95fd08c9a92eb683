# Mask2Former with Swin-B, SYNTHIA -> Cityscapes, BDD100K, Mapillary Vistas.
_base_ = [
    '../_base_/default_runtime.py',
    '../_base_/baselines/mask2former_swinb.py',
    '../_base_/benchmarks/syn2cs.py',
]
