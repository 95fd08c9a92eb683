"""The sampling core of deformable attention, in two formulations.

Letters: N batch, S cells of all levels, Q queries, H heads, L levels,
P points, D channels of one head.
"""

import torch
import torch.nn.functional as F


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
    n, _, heads, _ = value.shape
    table, starts = _ringed_table(value, shapes)
    size = places.new_tensor([[w, h] for h, w in shapes])[:, None]  # (L, 1, 2)
    # Cells of the ring have the index -1 and ``size``: past them all is zero.
    spot = torch.minimum((places * size - 0.5).clamp(min=-1), size)
    corner = torch.minimum(spot.detach().floor(), size - 1)
    part = spot - corner
    x1, y1 = part.unbind(-1)
    top, bottom = weights * (1 - y1), weights * y1
    right_top, right_bottom = top * x1, bottom * x1
    shares = torch.stack(
        [top - right_top, right_top, bottom - right_bottom, right_bottom],
        dim=-1,
    )  # (N, Q, H, L, P, 4)
    rows = _rows(corner, shapes, starts, table.shape[1], heads)
    out = F.embedding_bag(
        rows.flatten(0, 2).flatten(1),
        table.flatten(0, 2),
        mode='sum',
        per_sample_weights=shares.flatten(0, 2).flatten(1),
    )
    return out.unflatten(0, (n, -1, heads)).flatten(2)


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
    """Rows of the four cells around each place: (N, Q, H, L, P, 4)."""
    x, y = corner.long().unbind(-1)
    n = x.shape[0]

    def levels(values):
        return torch.tensor(values, device=x.device)[:, None]

    pitch = levels([w + 2 for _, w in shapes])
    cell = (y + 1) * pitch + (x + 1 + levels(starts))
    image = torch.arange(n, device=x.device).view(n, 1, 1, 1, 1) * cells
    head = torch.arange(heads, device=x.device).view(heads, 1, 1)
    first = (cell + image) * heads + head
    steps = torch.cat(
        [
            levels([0] * len(shapes)),
            levels([1] * len(shapes)),
            pitch,
            pitch + 1,
        ],
        dim=1,
    )
    return first[..., None] + steps[:, None] * heads
