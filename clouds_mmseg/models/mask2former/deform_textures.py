"""Deformable sampling by ``grid_sample``, on any device.

Letters: N batch, S cells of all levels, Q queries, H heads, L levels,
P points, D channels of one head.
"""

import torch.nn.functional as F


def sample_textures(value, shapes, places, weights):
    """Read map by map; see ``deformable_sample``."""
    n, _, heads, _ = value.shape
    grid = (2 * places - 1).transpose(1, 2).flatten(0, 1)
    weights = weights.transpose(1, 2).flatten(0, 1)  # (N * H, Q, L, P)
    maps = value.to(places.dtype).split([h * w for h, w in shapes], dim=1)
    out = 0
    for level, (shape, cells) in enumerate(zip(shapes, maps, strict=True)):
        cells = cells.permute(0, 2, 3, 1).flatten(0, 1).unflatten(2, shape)
        read = F.grid_sample(
            cells, grid[:, :, level], align_corners=False
        )  # (N * H, D, Q, P)
        out = out + (read * weights[:, None, :, level]).sum(-1)
    return out.unflatten(0, (n, heads)).flatten(1, 2).transpose(1, 2)
