"""mmcv's op: called as mmcv defines it, and on CUDA."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from reference import sample_by_grid

from clouds_mmseg.models.mask2former import deform_attn

COMPILED = importlib.util.find_spec('mmcv._ext') is not None


def test_it_is_a_candidate_where_it_has_been_compiled():
    assert ('mmcv' in deform_attn._BACKENDS) == COMPILED


def test_it_is_called_as_mmcv_defines_it():
    """The compiled part alone is replaced, by mmcv's own Python of it."""
    done = subprocess.run(
        [sys.executable, Path(__file__).with_name('run_mmcv_op.py')],
        capture_output=True,
        text=True,
        env=dict(os.environ, PYTHONPATH=os.pathsep.join(sys.path)),
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.split() == ['mmcv', 'equal', 'equal']


@pytest.mark.cuda
@pytest.mark.skipif(not COMPILED, reason='mmcv has not been compiled')
def test_the_op_equals_grid_sample_on_cuda():
    sample = deform_attn._BACKENDS['mmcv']()
    shapes = [(4, 6), (8, 12), (16, 24)]
    inputs = deform_attn.random_layer_inputs(
        shapes, torch.device('cuda'), images=3
    )
    results = [
        deform_attn._forward_backward(backend, shapes, inputs)
        for backend in (sample, sample_by_grid)
    ]
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, atol=1e-3, rtol=1e-3)
