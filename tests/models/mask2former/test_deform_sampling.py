import time

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import sample_by_grid
from tensor_sizes import TensorSizes

from clouds_mmseg.models.mask2former.deform_attn import (
    MultiScaleDeformableAttention,
    ms_deform_attn,
    ms_deform_attn_grid_sample,
)
from clouds_mmseg.models.mask2former.deform_attn_cpu import ms_deform_attn_cpu

SIDES = st.integers(1, 7)


def draw(shapes, batch=2, heads=2, points=3, dim=4, dtype=torch.float64):
    """Values, locations (some of them outside) and weights."""
    num_tokens = sum(h * w for h, w in shapes)
    value = torch.randn(batch, num_tokens, heads, dim, dtype=dtype)
    size = (batch, 5, heads, len(shapes), points)
    locations = torch.rand(*size, 2, dtype=dtype) * 2 - 0.5
    weights = torch.rand(size, dtype=dtype)
    return [x.requires_grad_() for x in (value, locations, weights)]


@given(
    st.lists(st.tuples(SIDES, SIDES), min_size=1, max_size=3),
    st.integers(0, 1000),
)
@settings(max_examples=30, deadline=None)
@pytest.mark.parametrize(
    'backend', [ms_deform_attn_cpu, ms_deform_attn_grid_sample]
)
def test_equals_grid_sample_with_its_gradients(backend, shapes, seed):
    torch.manual_seed(seed)
    value, locations, weights = draw(shapes)
    ours = backend(value, shapes, locations, weights)
    expected = sample_by_grid(value, shapes, locations, weights)
    torch.testing.assert_close(ours, expected)
    direction = torch.randn_like(ours)
    inputs = (value, locations, weights)
    mine = torch.autograd.grad((ours * direction).sum(), inputs)
    theirs = torch.autograd.grad((expected * direction).sum(), inputs)
    for a, b in zip(mine, theirs, strict=True):
        torch.testing.assert_close(a, b)


def test_cpu_passes_the_numerical_gradient_check():
    torch.manual_seed(0)
    shapes = [(2, 3), (4, 1)]
    inputs = draw(shapes, batch=1, points=2, dim=2)
    assert torch.autograd.gradcheck(
        lambda v, p, w: ms_deform_attn_cpu(v, shapes, p, w), inputs
    )


@pytest.mark.parametrize('argument', [0, 2])
def test_cpu_gives_one_gradient_alone(argument):
    torch.manual_seed(0)
    shapes = [(3, 2)]
    inputs = [x.detach() for x in draw(shapes)]
    inputs[argument].requires_grad_()
    grads = [
        torch.autograd.grad(
            backend(inputs[0], shapes, *inputs[1:]).square().sum(),
            inputs[argument],
        )[0]
        for backend in (ms_deform_attn_cpu, sample_by_grid)
    ]
    torch.testing.assert_close(*grads)


def test_locations_far_outside_read_zero():
    value, locations, weights = draw([(3, 3)])
    for far in (-7.0, 9.0, 1e9, float('inf')):
        moved = locations.detach() * 0 + far
        assert not ms_deform_attn_cpu(value, [(3, 3)], moved, weights).any()


def test_a_diverged_run_gives_nan_and_no_crash():
    shapes = [(3, 3), (2, 2)]
    value, locations, weights = draw(shapes)
    with torch.no_grad():
        locations[0, 0] = float('nan')
    out = ms_deform_attn(value, shapes, locations, weights)
    assert out[0, 0].isnan().all()
    assert out[1].isfinite().all()
    out.sum().backward()
    assert locations.grad[1].isfinite().all()


def test_result_is_float32_under_autocast():
    shapes = [(4, 4)]
    value, locations, weights = draw(shapes, dtype=torch.float32)
    expected = sample_by_grid(
        value.bfloat16().float(), shapes, locations, weights
    )
    with torch.autocast('cpu', torch.bfloat16):
        out = ms_deform_attn(value.bfloat16(), shapes, locations, weights)
    assert out.dtype == torch.float32
    torch.testing.assert_close(out, expected)


def test_initial_offsets_are_directions_of_growing_radius():
    """Each head in its own direction, each point one pixel further."""
    attention = MultiScaleDeformableAttention(
        channels=8, num_heads=4, num_levels=2, num_points=3
    )
    bias = attention.sampling_offsets.bias.view(4, 2, 3, 2)
    directions = [[1, 0], [0, 1], [-1, 0], [0, -1]]
    for head, direction in enumerate(directions):
        for point in range(3):
            expected = torch.tensor(direction).float() * (point + 1)
            for level in range(2):
                torch.testing.assert_close(
                    bias[head, level, point], expected, atol=1e-6, rtol=0
                )
    assert not attention.attention_weights.weight.any()


def test_cpu_is_not_slower_than_grid_sample():
    """At the size of one encoder layer for eight images of 256x128."""
    shapes = [(4, 8), (8, 16), (16, 32)]
    num_tokens = sum(h * w for h, w in shapes)
    inputs = [
        torch.randn(8, num_tokens, 8, 32),
        torch.rand(8, num_tokens, 8, 3, 4, 2),
        torch.rand(8, num_tokens, 8, 3, 4),
    ]
    inputs = [x.requires_grad_() for x in inputs]

    def seconds(backend):
        # Of the process: the machine may have other work.
        start = time.process_time()
        out = backend(inputs[0], shapes, *inputs[1:])
        torch.autograd.grad(out.sum(), inputs)
        return time.process_time() - start

    ours, expected = (
        min(seconds(backend) for _ in range(3))
        for backend in (ms_deform_attn, sample_by_grid)
    )
    assert ours <= expected


def test_cpu_works_head_by_head_and_sorts_nothing():
    """What makes it fast: few tokens at a time, no sort in the backward."""
    shapes = [(4, 6), (8, 12)]
    inputs = draw(shapes, heads=3, dtype=torch.float32)
    with TensorSizes() as sizes:
        out = ms_deform_attn_cpu(inputs[0], shapes, *inputs[1:])
        torch.autograd.grad(out.sum(), inputs)
    reads = [x for x in sizes.calls if x.startswith('_embedding_bag')]
    assert len(reads) == 2 * 3
    assert not {'grid_sampler_2d', 'sort', 'index_add'} & set(sizes.calls)
    assert not any('embedding_bag' in x and 'back' in x for x in sizes.calls)
