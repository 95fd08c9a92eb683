"""The sampling core of deformable attention: one interface.

Letters: N batch, S cells of all levels, Q queries, H heads, L levels,
P points, D channels of one head.
"""

import torch

from clouds_mmseg.models.mask2former.deform_choice import core_of_device
from clouds_mmseg.models.mask2former.deform_rows import sample_rows


def deformable_sample(value, shapes, places, weights):
    """Sum values read at given places with given weights.

    Values between cells are bilinear; outside the map they are zero. All
    formulations give the same numbers: on CPU tables of rows are read
    (``deform_rows.py``), on other devices it is told by a measurement
    (``deform_choice.py``).

    Args:
        value (Tensor): (N, S, H, D), the maps one after the other.
        shapes (list[tuple[int, int]]): Height and width of each map.
        places (Tensor): (N, Q, H, L, P, 2) float32, xy in [0, 1] of a map.
        weights (Tensor): (N, Q, H, L, P) float32.

    Returns:
        Tensor: (N, Q, H * D) float32.
    """
    device = value.device
    core = sample_rows if device.type == 'cpu' else core_of_device(device)
    with torch.autocast(device.type, enabled=False):
        return core(value, shapes, places.float(), weights.float())
