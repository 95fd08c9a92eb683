_base_ = './syn2cs.py'
model = dict(backbone=dict(model_name='RN101', pretrained='openai'))
