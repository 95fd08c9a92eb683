# A frozen tower of timm under Mask2Former's head. The files beside this one
# name the tower. Mean and std are the tower's own, as none are given here.
data_preprocessor = dict(
    type='SegDataPreProcessor',
    bgr_to_rgb=True,
    pad_val=0,
    seg_pad_val=255,
    size=(512, 512),
    test_cfg=dict(size_divisor=32),
)
model = dict(
    type='DGSegmentor',
    data_preprocessor=data_preprocessor,
    backbone=dict(type='TIMMTower', pretrained=True, frozen=True),
    decode_head=dict(
        type='CLOUDSHead', num_classes=19, classifier=dict(type='linear')
    ),
    train_cfg=dict(),
    test_cfg=dict(mode='whole'),
)
