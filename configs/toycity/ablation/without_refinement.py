# The recommended self-training with the teacher's labels as they are.
_base_ = './self_training.py'
model = dict(label_weight='region', mixing=dict(type='ClassMix'))
