# clouds/gta2cs.py with the recommended self-training, docs/self_training.md.
_base_ = './gta2cs.py'
model = dict(label_weight='region', mixing=dict(type='ClassMix'))
