"""The sampling core of deformable attention, in two formulations.

Letters: N batch, S cells of all levels, Q queries, H heads, L levels,
P points, D channels of one head.
"""

import torch
import torch.nn.functional as F

from clouds_mmseg.models.mask2former.deform_rows import sample_rows


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
