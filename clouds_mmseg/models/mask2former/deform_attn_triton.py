"""Deformable sampling on CUDA: Triton kernels, forward and backward."""

import functools

import torch
import triton
import triton.language as tl

# Queries of one program: with 32 channels, four numbers for each of Triton's
# 128 threads, one read of 16 bytes. Twice as many take twice the registers.
_QUERIES = 16


def ms_deform_attn_triton(value, shapes, places, weights):
    """Read every place in one pass; see ``ms_deform_attn``.

    Nothing of size Q x L x P x D is written, which ``grid_sample`` does for
    each level. Values may be of half precision: sums are of the dtype of the
    places. The gradient of the values is added up by atomics, in no fixed
    order: its last bits differ from run to run, as those of ``grid_sample``.

    Raises:
        RuntimeError: Of Triton, where it finds no compiler for its launcher.
    """
    return _FusedSample.apply(value, places, weights, tuple(shapes))


class _FusedSample(torch.autograd.Function):
    """Both directions; what is read is found again for the backward."""

    @staticmethod
    def forward(ctx, value, places, weights, shapes):
        """Return (N, Q, H * D), of the dtype of the places."""
        value, places, weights = (
            x.contiguous() for x in (value, places, weights)
        )
        ctx.levels = _levels(shapes, value.device)
        ctx.save_for_backward(value, places, weights)
        heads, dim = value.shape[2:]
        out = places.new_empty(*places.shape[:3], dim)
        _read[_programs(places)](
            value, ctx.levels, places, weights, out, *_sizes(value, places)
        )
        return out.flatten(2)

    @staticmethod
    def backward(ctx, grad):
        """Return the gradients of value, places and weights."""
        value, places, weights = ctx.saved_tensors
        by_value = torch.zeros_like(value, dtype=places.dtype)
        by_places = torch.empty_like(places)
        by_weights = torch.empty_like(weights)
        _read_backward[_programs(places)](
            value,
            ctx.levels,
            places,
            weights,
            grad.contiguous(),
            by_value,
            by_places,
            by_weights,
            *_sizes(value, places),
        )
        return by_value.to(value.dtype), by_places, by_weights, None


def _programs(places):
    """Programs of a kernel: blocks of queries, heads, images."""
    images, queries, heads = places.shape[:3]
    return triton.cdiv(queries, _QUERIES), heads, images


def _sizes(value, places):
    """The numbers that both kernels take after their tensors."""
    cells, heads, dim = value.shape[1:]
    queries, levels, points = places.shape[1], *places.shape[3:5]
    padded = triton.next_power_of_2(dim)
    return cells, queries, heads, levels, points, dim, padded, _QUERIES


@functools.lru_cache(maxsize=256)
def _levels(shapes, device):
    """(L, 3) int32: height, width and first cell of each map.

    Kept, since a copy to the device makes the host wait; and given as numbers
    in memory, since Triton would compile anew for every size of image.
    """
    numbers, start = [], 0
    for height, width in shapes:
        numbers.append((height, width, start))
        start += height * width
    return torch.tensor(numbers, dtype=torch.int32, device=device)


@triton.jit
def _block(queries, heads, dim, PADDED: tl.constexpr, BLOCK: tl.constexpr):
    """Which queries and channels this program works on.

    Returns the queries' numbers counted over images, queries and heads (the
    row of ``weights`` and ``places``), the mask of those that exist, the
    channels and the mask of both.
    """
    image = tl.program_id(2).to(tl.int64)
    query = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    row = (image * queries + query) * heads + tl.program_id(1)
    channel = tl.arange(0, PADDED)
    real = query < queries
    return row, real, channel, real[:, None] & (channel < dim)[None, :]


@triton.jit
def _first_value(cells, stride, dim):
    """Offset of the first value of this program's image and head."""
    return tl.program_id(2).to(tl.int64) * cells * stride + (
        tl.program_id(1) * dim
    )


@triton.jit
def _place(places, weights, at, real, width, height):
    """Read where a place lies and what it weighs.

    Returns the weight, then of x and of y the cell before the place, and how
    far the place is from it.
    """
    weight = tl.load(weights + at, mask=real, other=0.0)
    x = tl.load(places + at * 2, mask=real, other=0.0)
    y = tl.load(places + at * 2 + 1, mask=real, other=0.0)
    x, part_x = _cell_before(x * width - 0.5, width)
    y, part_y = _cell_before(y * height - 0.5, height)
    return weight, x, part_x, y, part_y


@triton.jit
def _cell_before(spot, side):
    # A spot far outside is brought to where both cells are outside too. One
    # that is no number stays none: no cell is inside then, but the shares
    # are none, and so is the sum.
    spot = tl.clamp(spot, -2.0, side + 1.0, propagate_nan=tl.PropagateNan.ALL)
    cell = tl.floor(spot)
    return cell, spot - cell


@triton.jit
def _share(part, after):
    """How much of the weight the cell before or after a spot gets."""
    return part if after else 1 - part


@triton.jit
def _values_at(x, y, width, height, start, stride, channel, real, there):
    """Offsets (BLOCK, PADDED) of cells' values, and which of them exist."""
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height) & real
    cell = start + y.to(tl.int32) * width + x.to(tl.int32)
    cell = tl.where(inside, cell, 0).to(tl.int64) * stride
    return cell[:, None] + channel[None, :], inside[:, None] & there


@triton.jit
def _read(
    value,
    levels,
    places,
    weights,
    out,
    cells,
    queries,
    heads,
    LEVELS: tl.constexpr,
    POINTS: tl.constexpr,
    dim,
    PADDED: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Sum the weighted values of a block of queries, for one head."""
    row, real, channel, there = _block(queries, heads, dim, PADDED, BLOCK)
    dtype = out.dtype.element_ty
    stride = heads * dim
    value += _first_value(cells, stride, dim)
    total = tl.zeros((BLOCK, PADDED), dtype)
    for level in range(LEVELS):
        height = tl.load(levels + level * 3)
        width = tl.load(levels + level * 3 + 1)
        start = tl.load(levels + level * 3 + 2)
        for point in range(POINTS):
            at = (row * LEVELS + level) * POINTS + point
            weight, x, part_x, y, part_y = _place(
                places, weights, at, real, width, height
            )
            for corner in tl.static_range(4):
                offset, mask = _values_at(
                    x + corner % 2,
                    y + corner // 2,
                    width,
                    height,
                    start,
                    stride,
                    channel,
                    real,
                    there,
                )
                read = tl.load(value + offset, mask=mask, other=0.0)
                share_x = _share(part_x, corner % 2)
                share_y = _share(part_y, corner // 2)
                share = weight * share_x * share_y
                total += share[:, None] * read.to(dtype)
    tl.store(out + row[:, None] * dim + channel[None, :], total, mask=there)


@triton.jit
def _read_backward(
    value,
    levels,
    places,
    weights,
    grad,
    by_value,
    by_places,
    by_weights,
    cells,
    queries,
    heads,
    LEVELS: tl.constexpr,
    POINTS: tl.constexpr,
    dim,
    PADDED: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Gradients of a block of queries, for one head."""
    row, real, channel, there = _block(queries, heads, dim, PADDED, BLOCK)
    dtype = by_weights.dtype.element_ty
    stride = heads * dim
    first = _first_value(cells, stride, dim)
    value += first
    by_value += first
    by_out = tl.load(
        grad + row[:, None] * dim + channel[None, :], mask=there, other=0.0
    )
    for level in range(LEVELS):
        height = tl.load(levels + level * 3)
        width = tl.load(levels + level * 3 + 1)
        start = tl.load(levels + level * 3 + 2)
        for point in range(POINTS):
            at = (row * LEVELS + level) * POINTS + point
            weight, x, part_x, y, part_y = _place(
                places, weights, at, real, width, height
            )
            by_weight = tl.zeros((BLOCK,), dtype)
            by_x = tl.zeros((BLOCK,), dtype)
            by_y = tl.zeros((BLOCK,), dtype)
            for corner in tl.static_range(4):
                offset, mask = _values_at(
                    x + corner % 2,
                    y + corner // 2,
                    width,
                    height,
                    start,
                    stride,
                    channel,
                    real,
                    there,
                )
                read = tl.load(value + offset, mask=mask, other=0.0)
                share_x = _share(part_x, corner % 2)
                share_y = _share(part_y, corner // 2)
                tl.atomic_add(
                    by_value + offset,
                    (weight * share_x * share_y)[:, None] * by_out,
                    mask=mask,
                    sem='relaxed',
                )
                by_share = tl.sum(by_out * read.to(dtype), axis=1)
                by_weight += by_share * share_x * share_y
                # The cell after gains what the cell before loses.
                by_x += by_share * share_y * (1 if corner % 2 else -1)
                by_y += by_share * share_x * (1 if corner // 2 else -1)
            tl.store(by_weights + at, by_weight, mask=real)
            by_x *= weight * width
            by_y *= weight * height
            tl.store(by_places + at * 2, by_x, mask=real)
            tl.store(by_places + at * 2 + 1, by_y, mask=real)
