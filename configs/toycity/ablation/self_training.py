# Self-training with generated images; labels are not refined and the source
# is not restyled.
_base_ = './refinement.py'
custom_hooks = [
    dict(type='ProgressHook'),
    dict(type='PredictionPicturesHook', per_domain=2),
    dict(type='ResultsHook'),
    {{_base_.teacher_hook}},
    {{_base_.report_hook}},
    {{_base_.accuracy_hook}},
]
