"""Deformable attention by mmcv's CUDA op, where mmcv has been compiled."""

from collections.abc import Sequence

import torch
from mmcv.ops.multi_scale_deform_attn import MultiScaleDeformableAttnFunction
from torch import Tensor


def ms_deform_attn_mmcv(
    value: Tensor,
    shapes: Sequence[tuple[int, int]],
    locations: Tensor,
    weights: Tensor,
) -> Tensor:
    """Call the op with contiguous tensors; see ``ms_deform_attn``."""
    # The op computes in the dtype of the values, and half precision cannot
    # distinguish neighbouring locations of a large map.
    value = value.to(locations.dtype)
    sides = torch.tensor(shapes, device=value.device)
    pixels = sides.prod(1)
    return MultiScaleDeformableAttnFunction.apply(
        value.contiguous(),
        sides,
        pixels.cumsum(0) - pixels,  # first token of each map
        locations.contiguous(),
        weights.contiguous(),
        len(value),  # Images at a time: a divisor of the batch.
    )
