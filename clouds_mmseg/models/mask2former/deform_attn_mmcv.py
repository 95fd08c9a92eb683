"""Deformable sampling by mmcv's CUDA op, where mmcv has been compiled."""

import torch
from mmcv.ops.multi_scale_deform_attn import MultiScaleDeformableAttnFunction


def ms_deform_attn_mmcv(value, shapes, places, weights):
    """Call the op as it wants to be called; see ``ms_deform_attn``."""
    # The op takes all in the type of the value, and half precision cannot
    # tell neighbouring places of a large map apart.
    value = value.to(places.dtype)
    sides = torch.tensor(shapes, device=value.device)
    cells = sides.prod(1)
    return MultiScaleDeformableAttnFunction.apply(
        value.contiguous(),
        sides,
        cells.cumsum(0) - cells,
        places.contiguous(),
        weights.contiguous(),
        len(value),  # Images at a time: a divisor of the batch.
    )
