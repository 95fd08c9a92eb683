# SAM 2's Hiera-L (Apache-2.0): four stages, of strides 4 to 32.
_base_ = './tower.py'
model = dict(backbone=dict(model_name='sam2_hiera_large.fb_r1024'))
