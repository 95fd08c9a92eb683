# clouds/cs2acdc.py with labels refined by SAM 3, which finds classes by
# words. It has seen street scenes: compare with cs2acdc.py.
# See docs/refiners.md.
_base_ = ['./cs2acdc.py', '../_base_/refiners/sam3.py']
custom_hooks = {{_base_.sam3_hooks}}
