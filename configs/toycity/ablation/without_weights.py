# The recommended self-training with regions that all count alike.
_base_ = './self_training_plus.py'
model = dict(label_weight=None)
