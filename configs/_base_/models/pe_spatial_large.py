# Perception Encoder ViT-L/14, the one for dense tasks.
_base_ = './tower.py'
model = dict(backbone=dict(model_name='vit_pe_spatial_large_patch14_448.fb'))
