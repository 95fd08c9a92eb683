_base_ = './cs2acdc.py'
model = dict(backbone=dict(model_name='RN101', pretrained='openai'))
