"""Run mmcv's autograd function, its compiled part written in Python.

A process of its own: ``mmcv.ops`` keeps what it was imported with. Prints
what is registered and, for two batches, whether all numbers are equal.
"""

import sys
import types
from importlib.machinery import ModuleSpec
from pathlib import Path

import torch

sys.path.insert(1, str(Path(__file__).resolve().parents[3] / 'tools'))

extension = types.ModuleType('mmcv._ext')
extension.__spec__ = ModuleSpec('mmcv._ext', None)


def any_operator(name):
    """``mmcv.ops`` asks at its import whether all of its operators exist."""
    if name.startswith('__'):
        raise AttributeError(name)
    return lambda *args, **kwargs: None


extension.__getattr__ = any_operator
sys.modules['mmcv._ext'] = extension

from mmcv.ops.multi_scale_deform_attn import (  # noqa: E402
    multi_scale_deformable_attn_pytorch as in_python,
)

from benchmark.sampling import random_layer_inputs  # noqa: E402
from clouds_mmseg.models.mask2former.deform_attn import (  # noqa: E402
    check_implementation,
    ms_deform_attn_grid_sample,
    ms_deform_attn_mmcv,
)


def check(value, sides, starts, locations, weights, im2col_step):
    """What the compiled operators ask of their arguments."""
    for tensor in (value, sides, starts, locations, weights):
        assert tensor.is_contiguous()
    assert sides.dtype == starts.dtype == torch.int64
    assert value.dtype == locations.dtype == weights.dtype
    assert len(value) % min(len(value), im2col_step) == 0
    ends = sides.prod(1).cumsum(0)
    assert starts[0] == 0 and torch.equal(starts[1:], ends[:-1])


def forward(value, sides, starts, locations, weights, im2col_step):
    check(value, sides, starts, locations, weights, im2col_step)
    return in_python(value, sides, locations, weights)


def backward(
    value,
    sides,
    starts,
    locations,
    weights,
    grad,
    grad_value,
    grad_locations,
    grad_weights,
    im2col_step,
):
    inputs = [x.detach().requires_grad_() for x in (value, locations, weights)]
    with torch.enable_grad():
        out = in_python(inputs[0], sides, *inputs[1:])
    found = torch.autograd.grad(out, inputs, grad)
    for into, x in zip(
        (grad_value, grad_locations, grad_weights), found, strict=True
    ):
        into.copy_(x)


extension.ms_deform_attn_forward = forward
extension.ms_deform_attn_backward = backward

check_implementation('mmcv')
shapes = [(2, 3), (4, 6)]
print('mmcv')
for images in (1, 3):
    value, locations, weights = random_layer_inputs(
        shapes, torch.device('cpu'), images
    )
    # A view that is not contiguous, as a layer's may be.
    value = value.detach().transpose(1, 2).contiguous().transpose(1, 2)
    inputs = value.requires_grad_(), locations, weights
    results = []
    for sample in (ms_deform_attn_mmcv, ms_deform_attn_grid_sample):
        out = sample(inputs[0], shapes, *inputs[1:])
        grads = torch.autograd.grad(out.square().sum(), inputs)
        results.append([out, *grads])
    same = all(
        torch.allclose(a, b, atol=1e-4, rtol=1e-4)
        for a, b in zip(*results, strict=True)
    )
    print('equal' if same else 'different')
