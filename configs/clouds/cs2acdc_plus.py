# clouds/cs2acdc.py with the recommended self-training, docs/self_training.md.
_base_ = './cs2acdc.py'
model = dict(label_weight='region', mixing=dict(type='ClassMix'))
