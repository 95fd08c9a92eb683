"""The sampling core of deformable attention, in two formulations.

Letters: N batch, S cells of all levels, Q queries, H heads, L levels,
P points, D channels of one head.
"""

import warnings

import torch
import torch.nn.functional as F
from scipy.sparse import csr_array


def deformable_sample(value, shapes, places, weights):
    """Sum values read at given places with given weights.

    Values between cells are bilinear; outside the map they are zero. Both
    formulations give the same numbers: tables of rows are read faster on
    CPU, textures faster on CUDA.

    Args:
        value (Tensor): (N, S, H, D), the maps one after the other.
        shapes (list[tuple[int, int]]): Height and width of each map.
        places (Tensor): (N, Q, H, L, P, 2) float32, xy in [0, 1] of a map.
        weights (Tensor): (N, Q, H, L, P) float32.

    Returns:
        Tensor: (N, Q, H * D) float32.
    """
    core = sample_textures if value.is_cuda else sample_rows
    with torch.autocast(value.device.type, enabled=False):
        return core(value.float(), shapes, places.float(), weights.float())


def sample_textures(value, shapes, places, weights):
    """Read each map by ``grid_sample``; see :func:`deformable_sample`."""
    n, _, heads, _ = value.shape
    grid = (2 * places - 1).transpose(1, 2).flatten(0, 1)
    weights = weights.transpose(1, 2).flatten(0, 1)  # (N * H, Q, L, P)
    maps = value.split([h * w for h, w in shapes], dim=1)
    out = 0
    for level, (shape, cells) in enumerate(zip(shapes, maps, strict=True)):
        cells = cells.permute(0, 2, 3, 1).flatten(0, 1).unflatten(2, shape)
        read = F.grid_sample(
            cells, grid[:, :, level], align_corners=False
        )  # (N * H, D, Q, P)
        out = out + (read * weights[:, None, :, level]).sum(-1)
    return out.unflatten(0, (n, heads)).flatten(1, 2).transpose(1, 2)


def sample_rows(value, shapes, places, weights):
    """Read rows of one table; see :func:`deformable_sample`.

    A bag holds, for one query and head, the four cells around each place of
    every level, weighted; a ring of zeros around each map stands for the
    outside.
    """
    n, queries, heads, levels, points, _ = places.shape
    table, starts = _ringed_table(value, shapes)
    # Numbers of a level are laid out once for each place, K = H * L * P in a
    # row: broadcasting over an axis of 2 or 4 is several times slower.
    size = places.new_tensor([[w, h] for h, w in shapes])[:, None]
    size = size.expand(heads, levels, points, 2).flatten()  # (K * 2,)
    # Cells of the ring have the index -1 and ``size``: past them all is zero.
    spot = places.flatten(2) * size - 0.5
    spot = torch.minimum(spot.clamp(min=-1), size)
    corner = torch.minimum(spot.detach().floor(), size - 1)
    part_x, part_y = (spot - corner).unflatten(2, (-1, 2)).unbind(-1)
    bottom = weights.flatten(2) * part_y
    top = weights.flatten(2) - bottom
    bottom_right, top_right = bottom * part_x, top * part_x
    shares = (top - top_right, top_right, bottom - bottom_right, bottom_right)
    # A diverged run has places that are no numbers: its values then are none
    # either, but its rows must stay inside of the table.
    corner = corner.nan_to_num(nan=-1.0).int().unflatten(2, (-1, 2))
    rows = _rows(corner, shapes, starts, table.shape[1], heads)
    out = _WeightedBags.apply(
        table.flatten(0, 2), _bags(rows, heads), _bags(shares, heads)
    )
    return out.view(n, queries, -1)


def _bags(corners, heads):
    """Bring what four cells have, (N, Q, K) each, to (N * Q * H, B)."""
    corners = [x.unflatten(2, (heads, -1)) for x in corners]
    return torch.stack(corners, dim=3).flatten(0, 2).flatten(1)


def _ringed_table(value, shapes):
    """Maps with a ring of zeros, flattened: (N, S', H, D), and starts."""
    maps, starts, total = [], [], 0
    sizes = [h * w for h, w in shapes]
    for (h, w), cells in zip(shapes, value.split(sizes, 1), strict=True):
        cells = F.pad(cells.unflatten(1, (h, w)), (0, 0, 0, 0, 1, 1, 1, 1))
        maps.append(cells.flatten(1, 2))
        starts.append(total)
        total += (h + 2) * (w + 2)
    return torch.cat(maps, dim=1), starts


def _rows(corner, shapes, starts, cells, heads):
    """Rows of the four cells around each place: four of (N, Q, K) int32.

    Args:
        corner (Tensor): (N, Q, K, 2) int32, xy of the upper left cell.
        shapes (list[tuple[int, int]]): Height and width of each map.
        starts (list[int]): Where each ringed map begins.
        cells (int): Of all ringed maps.
        heads (int): H; rows of a cell lie beside one another.
    """
    x, y = corner.unbind(-1)
    points = x.shape[2] // (heads * len(shapes))

    def row(values):
        values = torch.tensor(values, device=x.device, dtype=x.dtype)
        return values[:, None].expand(heads, -1, points)

    pitch = row([(w + 2) * heads for _, w in shapes]).flatten()
    # The first cell inside of the ring, in the row of its head.
    first = [
        (start + w + 3) * heads
        for start, (_, w) in zip(starts, shapes, strict=True)
    ]
    head = torch.arange(heads, device=x.device, dtype=x.dtype)
    first = (row(first) + head[:, None, None]).flatten()
    image = torch.arange(len(x), device=x.device, dtype=x.dtype)
    base = first + (image * (cells * heads))[:, None, None]  # (N, 1, K)
    upper = y * pitch + x * heads + base
    lower = upper + pitch
    return upper, upper + heads, lower, lower + heads


class _WeightedBags(torch.autograd.Function):
    """Weighted sums of rows of a table, as one sparse matrix product.

    Torch's own backward of ``embedding_bag`` sorts all indices. Here both
    gradients are products with the same sparse matrix: several times faster.
    """

    @staticmethod
    def forward(ctx, table, rows, shares):
        """Sum rows of (R, D) by (M, B) rows and shares: (M, D)."""
        ctx.save_for_backward(table, rows, shares)
        return F.embedding_bag(
            rows, table, mode='sum', per_sample_weights=shares
        )

    @staticmethod
    def backward(ctx, grad):
        """Return the gradients of table and shares."""
        table, rows, shares = ctx.saved_tensors
        bags, length = rows.shape
        size = (bags, len(table))
        ends = torch.arange(0, (bags + 1) * length, length, dtype=rows.dtype)
        grad = grad.contiguous()
        by_table = by_shares = None
        if ctx.needs_input_grad[0]:
            matrix = csr_array(
                (
                    shares.flatten().numpy(),
                    rows.flatten().numpy(),
                    ends.numpy(),
                ),
                shape=size,
            )
            by_table = torch.from_numpy(matrix.T @ grad.numpy())
        if ctx.needs_input_grad[2]:
            with warnings.catch_warnings():
                # Torch calls its sparse matrices a beta feature.
                warnings.simplefilter('ignore', UserWarning)
                zero = torch.sparse_csr_tensor(
                    ends,
                    rows.flatten(),
                    torch.zeros_like(shares.flatten()),
                    size,
                )
            by_shares = torch.sparse.sampled_addmm(zero, grad, table.t())
            by_shares = by_shares.values().view_as(shares)
        return by_table, None, by_shares
