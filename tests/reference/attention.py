"""Deformable attention read by ``grid_sample``, level by level."""

import torch
import torch.nn.functional as F


def sample_by_grid(value, shapes, locations, weights):
    """Deformable sampling, with ``grid_sample`` for every level."""
    n, _, heads, channels = value.shape
    queries = locations.shape[1]
    parts = value.split([h * w for h, w in shapes], dim=1)
    read = []
    for level, ((h, w), part) in enumerate(zip(shapes, parts, strict=True)):
        image = part.flatten(2).transpose(1, 2)
        image = image.reshape(n * heads, channels, h, w)
        grid = 2 * locations[:, :, :, level].transpose(1, 2).flatten(0, 1) - 1
        read.append(F.grid_sample(image, grid, align_corners=False))
    read = torch.stack(read, dim=-2).flatten(-2)  # (n * heads, D, Q, L * P)
    weights = weights.transpose(1, 2).reshape(n * heads, 1, queries, -1)
    out = (read * weights).sum(-1).view(n, heads * channels, queries)
    return out.transpose(1, 2)
