# Loaders and metric of the benchmarks: whole images, one by one, of several
# domains, under the protocol clouds. A benchmark adds its data sets and the
# names of its domains.
_base_ = './datasets/single_image.py'
train_dataloader = dict(num_workers=4, persistent_workers=True)
val_dataloader = dict(
    batch_size=1,
    num_workers=4,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(type='ConcatDataset', pipeline={{_base_.test_pipeline}}),
)
test_dataloader = val_dataloader
val_evaluator = dict(type='DGIoUMetric', protocol='clouds')
test_evaluator = val_evaluator
