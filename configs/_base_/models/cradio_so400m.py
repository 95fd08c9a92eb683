# C-RADIO v4 ViT-SO400M/16 (NVIDIA Open Model License).
_base_ = './tower.py'
model = dict(backbone=dict(model_name='vit_so400m_patch16_radio_v4.c_radio'))
