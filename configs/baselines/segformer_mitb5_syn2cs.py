# SegFormer with MiT-B5, SYNTHIA -> Cityscapes, BDD100K, Mapillary Vistas.
_base_ = [
    '../_base_/default_runtime.py',
    '../_base_/baselines/segformer_mitb5.py',
    '../_base_/benchmarks/syn2cs.py',
]
