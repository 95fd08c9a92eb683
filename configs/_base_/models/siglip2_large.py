# SigLIP 2 ViT-L/16, trained at 512 pixels: nothing is resized at this crop.
_base_ = './tower.py'
model = dict(backbone=dict(model_name='vit_large_patch16_siglip_512.v2_webli'))
