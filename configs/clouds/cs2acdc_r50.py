_base_ = './cs2acdc.py'
model = dict(backbone=dict(model_name='RN50', pretrained='openai'))
