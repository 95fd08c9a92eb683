"""Deformable attention on CUDA: Triton kernels, forward and backward.

They have never run on a GPU: only interpreted, and compiled to machine code.
``deformable_sampling='triton'`` chooses them; nothing else does.
Letters as in ``deform_attn.py``: N images, Q queries, H heads, L levels,
P sampling points, D channels of a head.
"""

import functools
from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

# Queries of one program: with 32 channels, four numbers for each of Triton's
# 128 threads, one load of 16 bytes. Twice as many take twice the registers.
_QUERIES = 16


def ms_deform_attn_triton(
    value: Tensor,
    shapes: Sequence[tuple[int, int]],
    locations: Tensor,
    weights: Tensor,
) -> Tensor:
    """Sample all locations in one pass; see ``ms_deform_attn``.

    Nothing of size Q x P x D is written, as ``grid_sample`` does for each
    level. Values may be of half precision: sums are of the dtype of the
    locations. The gradient of the values is summed by atomic additions, in
    no fixed order: its last bits differ from run to run, as with
    ``grid_sample``.

    Raises:
        RuntimeError: By Triton, if there is no compiler for its launcher.
    """
    return _MSDeformAttnTriton.apply(value, locations, weights, tuple(shapes))


class _MSDeformAttnTriton(torch.autograd.Function):
    """Forward and backward; the backward samples the values again."""

    @staticmethod
    def forward(ctx, value, locations, weights, shapes):
        """Return (N, Q, H * D), of the dtype of the locations."""
        value, locations, weights = (
            x.contiguous() for x in (value, locations, weights)
        )
        ctx.levels = _level_table(shapes, value.device)
        ctx.save_for_backward(value, locations, weights)
        heads, dim = value.shape[2:]
        out = locations.new_empty(*locations.shape[:3], dim)
        _forward_kernel[_grid(locations)](
            value,
            ctx.levels,
            locations,
            weights,
            out,
            *_kernel_sizes(value, locations),
        )
        return out.flatten(2)

    @staticmethod
    def backward(ctx, grad):
        """Return the gradients of value, locations and weights."""
        value, locations, weights = ctx.saved_tensors
        grad_value = torch.zeros_like(value, dtype=locations.dtype)
        grad_locations = torch.empty_like(locations)
        grad_weights = torch.empty_like(weights)
        _backward_kernel[_grid(locations)](
            value,
            ctx.levels,
            locations,
            weights,
            grad.contiguous(),
            grad_value,
            grad_locations,
            grad_weights,
            *_kernel_sizes(value, locations),
        )
        return grad_value.to(value.dtype), grad_locations, grad_weights, None


def _grid(locations):
    """Launch grid of a kernel: blocks of queries, heads, images."""
    images, queries, heads = locations.shape[:3]
    return triton.cdiv(queries, _QUERIES), heads, images


def _kernel_sizes(value, locations):
    """Scalar arguments that both kernels take after their tensors."""
    num_tokens, heads, dim = value.shape[1:]
    queries, levels, points = locations.shape[1], *locations.shape[3:5]
    padded = triton.next_power_of_2(dim)
    return num_tokens, queries, heads, levels, points, dim, padded, _QUERIES


@functools.lru_cache(maxsize=256)
def _level_table(shapes, device):
    """(L, 3) int32: height, width and first token of each map.

    Cached, since a copy to the device makes the host wait. A tensor instead
    of scalar arguments, since Triton would compile anew for every image size.
    """
    numbers, start = [], 0
    for height, width in shapes:
        numbers.append((height, width, start))
        start += height * width
    return torch.tensor(numbers, dtype=torch.int32, device=device)


@triton.jit
def _program_block(
    queries, heads, dim, PADDED: tl.constexpr, BLOCK: tl.constexpr
):
    """Compute which queries and channels this program works on.

    Returns the index over images, queries and heads (the row of ``weights``
    and ``locations``) of each query, the mask of queries that exist, the
    channels, and the mask of queries and channels that exist.
    """
    image = tl.program_id(2).to(tl.int64)
    query = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    sample_row = (image * queries + query) * heads + tl.program_id(1)
    channel = tl.arange(0, PADDED)
    exists = query < queries
    return (
        sample_row,
        exists,
        channel,
        exists[:, None] & (channel < dim)[None, :],
    )


@triton.jit
def _first_token(num_tokens, stride, dim):
    """Offset of the first token of this program's image and head."""
    return tl.program_id(2).to(tl.int64) * num_tokens * stride + (
        tl.program_id(1) * dim
    )


@triton.jit
def _load_location(locations, weights, at, exists, width, height):
    """Load a sampling location and its attention weight.

    Returns the weight, then for x and for y the pixel before the location
    and the location's distance from it.
    """
    weight = tl.load(weights + at, mask=exists, other=0.0)
    x = tl.load(locations + at * 2, mask=exists, other=0.0)
    y = tl.load(locations + at * 2 + 1, mask=exists, other=0.0)
    x, dx = _split(x * width - 0.5, width)
    y, dy = _split(y * height - 0.5, height)
    return weight, x, dx, y, dy


@triton.jit
def _split(pixel, side):
    # A coordinate far outside is clamped to where both neighbours are outside
    # too. NaN stays NaN: no neighbour is inside then, but the weights are
    # NaN, and so is the sum.
    pixel = tl.clamp(
        pixel, -2.0, side + 1.0, propagate_nan=tl.PropagateNan.ALL
    )
    before = tl.floor(pixel)
    return before, pixel - before


@triton.jit
def _bilinear_weight(distance, after):
    """Weight of the pixel before or after a location, along one axis."""
    return distance if after else 1 - distance


@triton.jit
def _token_offsets(
    x, y, width, height, start, stride, channel, exists, in_bounds
):
    """Offsets (BLOCK, PADDED) of tokens, and the mask of those to load."""
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height) & exists
    token = start + y.to(tl.int32) * width + x.to(tl.int32)
    token = tl.where(inside, token, 0).to(tl.int64) * stride
    return token[:, None] + channel[None, :], inside[:, None] & in_bounds


@triton.jit
def _forward_kernel(
    value,
    levels,
    locations,
    weights,
    out,
    num_tokens,
    queries,
    heads,
    LEVELS: tl.constexpr,
    POINTS: tl.constexpr,
    dim,
    PADDED: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Sum the weighted values for a block of queries and one head."""
    sample_row, exists, channel, in_bounds = _program_block(
        queries, heads, dim, PADDED, BLOCK
    )
    dtype = out.dtype.element_ty
    stride = heads * dim
    value += _first_token(num_tokens, stride, dim)
    total = tl.zeros((BLOCK, PADDED), dtype)
    for level in range(LEVELS):
        height = tl.load(levels + level * 3)
        width = tl.load(levels + level * 3 + 1)
        start = tl.load(levels + level * 3 + 2)
        for point in range(POINTS):
            at = (sample_row * LEVELS + level) * POINTS + point
            weight, x, dx, y, dy = _load_location(
                locations, weights, at, exists, width, height
            )
            for corner in tl.static_range(4):
                offset, mask = _token_offsets(
                    x + corner % 2,
                    y + corner // 2,
                    width,
                    height,
                    start,
                    stride,
                    channel,
                    exists,
                    in_bounds,
                )
                read = tl.load(value + offset, mask=mask, other=0.0)
                weight_x = _bilinear_weight(dx, corner % 2)
                weight_y = _bilinear_weight(dy, corner // 2)
                coefficient = weight * weight_x * weight_y
                total += coefficient[:, None] * read.to(dtype)
    tl.store(
        out + sample_row[:, None] * dim + channel[None, :],
        total,
        mask=in_bounds,
    )


@triton.jit
def _backward_kernel(
    value,
    levels,
    locations,
    weights,
    grad,
    grad_value,
    grad_locations,
    grad_weights,
    num_tokens,
    queries,
    heads,
    LEVELS: tl.constexpr,
    POINTS: tl.constexpr,
    dim,
    PADDED: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Compute the gradients for a block of queries and one head."""
    sample_row, exists, channel, in_bounds = _program_block(
        queries, heads, dim, PADDED, BLOCK
    )
    dtype = grad_weights.dtype.element_ty
    stride = heads * dim
    first = _first_token(num_tokens, stride, dim)
    value += first
    grad_value += first
    grad_out = tl.load(
        grad + sample_row[:, None] * dim + channel[None, :],
        mask=in_bounds,
        other=0.0,
    )
    for level in range(LEVELS):
        height = tl.load(levels + level * 3)
        width = tl.load(levels + level * 3 + 1)
        start = tl.load(levels + level * 3 + 2)
        for point in range(POINTS):
            at = (sample_row * LEVELS + level) * POINTS + point
            weight, x, dx, y, dy = _load_location(
                locations, weights, at, exists, width, height
            )
            grad_weight = tl.zeros((BLOCK,), dtype)
            grad_x = tl.zeros((BLOCK,), dtype)
            grad_y = tl.zeros((BLOCK,), dtype)
            for corner in tl.static_range(4):
                offset, mask = _token_offsets(
                    x + corner % 2,
                    y + corner // 2,
                    width,
                    height,
                    start,
                    stride,
                    channel,
                    exists,
                    in_bounds,
                )
                read = tl.load(value + offset, mask=mask, other=0.0)
                weight_x = _bilinear_weight(dx, corner % 2)
                weight_y = _bilinear_weight(dy, corner // 2)
                tl.atomic_add(
                    grad_value + offset,
                    (weight * weight_x * weight_y)[:, None] * grad_out,
                    mask=mask,
                    sem='relaxed',
                )
                grad_coefficient = tl.sum(grad_out * read.to(dtype), axis=1)
                grad_weight += grad_coefficient * weight_x * weight_y
                # The pixel after gains what the pixel before loses.
                grad_x += (
                    grad_coefficient * weight_y * (1 if corner % 2 else -1)
                )
                grad_y += (
                    grad_coefficient * weight_x * (1 if corner // 2 else -1)
                )
            tl.store(grad_weights + at, grad_weight, mask=exists)
            grad_x *= weight * width
            grad_y *= weight * height
            tl.store(grad_locations + at * 2, grad_x, mask=exists)
            tl.store(grad_locations + at * 2 + 1, grad_y, mask=exists)
