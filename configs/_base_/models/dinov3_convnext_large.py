# DINOv3 ConvNeXt-L (DINOv3 licence, as dinov3_large.py).
_base_ = './tower.py'
model = dict(backbone=dict(model_name='convnext_large.dinov3_lvd1689m'))
