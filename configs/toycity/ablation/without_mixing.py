# The recommended self-training without mixing.
_base_ = './self_training_plus.py'
model = dict(mixing=None)
