# Self-training as recommended: pseudo labels count as much as the teacher
# expects them to be right, and labelled content is pasted onto the generated
# scenes. See docs/self_training.md.
_base_ = './clouds.py'
model = dict(label_weight='region', mixing=dict(type='ClassMix'))
