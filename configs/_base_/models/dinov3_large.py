# DINOv3 ViT-L/16 (DINOv3 licence: commercial use allowed, the licence has to
# be passed on; Meta's own repository asks for a registration).
_base_ = './tower.py'
model = dict(backbone=dict(model_name='vit_large_patch16_dinov3.lvd1689m'))
