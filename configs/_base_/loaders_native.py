# The same for images that are small or of any kind: compared at their own
# size (protocol native), with two workers for two cores.
_base_ = './loaders.py'
# An image that is no sample of a dataset: what MMSegmentation's
# inference_model and MMSegInferencer run.
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='PackSegInputs'),
]
train_dataloader = dict(num_workers=2)
val_dataloader = dict(num_workers=2, dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
val_evaluator = dict(protocol='native')
test_evaluator = val_evaluator
