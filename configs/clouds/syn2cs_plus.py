# clouds/syn2cs.py with the recommended self-training, docs/self_training.md.
_base_ = './syn2cs.py'
model = dict(label_weight='region', mixing=dict(type='ClassMix'))
