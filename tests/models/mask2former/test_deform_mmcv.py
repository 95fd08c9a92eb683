"""mmcv's op: called as mmcv defines it, and on CUDA."""

import importlib.util
from pathlib import Path

import pytest
import torch
from reference import sample_by_grid

from benchmark.sampling import random_layer_inputs
from clouds_mmseg.models.mask2former.deform_attn import ms_deform_attn_mmcv

COMPILED = importlib.util.find_spec('mmcv._ext') is not None


def test_it_is_called_as_mmcv_defines_it(warm_python):
    """The compiled part alone is replaced, by mmcv's own Python of it."""
    done = warm_python.run(Path(__file__).with_name('run_mmcv_op.py'))
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.split() == ['mmcv', 'equal', 'equal']


@pytest.mark.cuda
@pytest.mark.skipif(not COMPILED, reason='mmcv has not been compiled')
def test_the_op_equals_grid_sample_on_cuda():
    shapes = [(4, 6), (8, 12), (16, 24)]
    inputs = random_layer_inputs(shapes, torch.device('cuda'), images=3)
    results = []
    for sample in (ms_deform_attn_mmcv, sample_by_grid):
        out = sample(inputs[0], shapes, *inputs[1:])
        grads = torch.autograd.grad(out.square().sum(), inputs)
        results.append([out, *grads])
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, atol=1e-3, rtol=1e-3)
