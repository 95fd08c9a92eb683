# Control: the second stage has batches of 6 labelled images, as many as the
# rows with self-training have beside two generated ones. It starts from the
# first stage of source.py.
_base_ = './source.py'
total_batch_size = 6
resume_cfg = dict(accept=['total_batch_size'])
