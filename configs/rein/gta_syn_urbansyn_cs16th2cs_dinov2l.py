# The three synthetic sets and a sixteenth of Cityscapes' training images, 186.
# Rein's readme has 82.5 on Cityscapes, with a part and a mixture of its own.
# Cityscapes is no unseen domain here: the mean is that of the other two.
_base_ = './gta_syn_urbansyn2cs_dinov2l.py'
train_dataloader = dict(
    dataset=dict(
        datasets=[
            {{_base_.train_gta5}},
            {{_base_.train_synthia}},
            {{_base_.train_urbansyn}},
            dict(
                type='CityscapesDGDataset',
                data_root='data/cityscapes',
                split='train',
                expected=2975,
                part='1/16',
            ),
        ],
        # A tenth is real, our choice; the others as their numbers of images.
        shares=[0.536, 0.202, 0.162, 0.1],
    )
)
val_evaluator = dict(source_domains=['cityscapes'])
test_evaluator = val_evaluator
