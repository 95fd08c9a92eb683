_base_ = './gta2cs.py'
model = dict(backbone=dict(model_name='RN50', pretrained='openai'))
