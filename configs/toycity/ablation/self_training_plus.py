# Self-training as recommended; the source is not restyled.
_base_ = './refinement.py'
model = dict(label_weight='region', mixing=dict(type='ClassMix'))
