# The recommended self-training with the teacher's labels as they are.
_base_ = './self_training_plus.py'
custom_hooks = [
    dict(type='ProgressHook'),
    dict(type='PredictionPicturesHook', per_domain=2),
    dict(type='ResultsHook'),
    {{_base_.teacher_hook}},
    {{_base_.report_hook}},
    {{_base_.accuracy_hook}},
]
