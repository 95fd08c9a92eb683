# clouds/syn2cs.py with labels refined by SAM 3, which finds classes by
# words. It has seen street scenes: compare with syn2cs.py.
# See docs/refiners.md.
_base_ = ['./syn2cs.py', '../_base_/refiners/sam3.py']
custom_hooks = {{_base_.sam3_hooks}}
