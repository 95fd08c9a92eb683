# PMT on a frozen DINOv3 ViT-L/16: widths as in its published config for
# ADE20K (image/configs/ade20k/semantic/pmt_l_512.yaml there).
_base_ = './dinov3_large.py'
model = dict(
    backbone=dict(output='tokens', norm=True),
    decode_head=dict(
        _delete_=True, type='PMTHead', num_classes=19, ffn_channels=1024
    ),
)
