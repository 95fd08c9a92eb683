# EoMT on DINOv2 ViT-L/14 with registers, at patches of 16 pixels: the tower of
# its published models for Cityscapes, whose table is for images of 1024.
_base_ = './dinov2_reg_large.py'
model = dict(
    backbone=dict(img_size=1024, frozen=False, output='tokens', open_blocks=4),
    decode_head=dict(_delete_=True, type='EoMTHead', num_classes=19),
)
