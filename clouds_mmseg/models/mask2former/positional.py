"""Where cells of maps lie, as numbers and as codes."""

import math

import torch


def sine_encoding(height, width, channels, *, device=None, temperature=1e4):
    """Encode each cell of a map by sines and cosines of its position.

    Positions are counted from 1 and scaled so that the last row and column
    stand at 2 pi. The first half of the channels speaks of y, the second
    of x; sines and cosines alternate. Source: the normalised sine encoding
    of DETR (arXiv 2005.12872, section A.4), as in Mask2Former.

    Args:
        height (int): Rows of the map.
        width (int): Columns of the map.
        channels (int): Length of a code, a multiple of 4.
        device (torch.device, optional): Where to compute.
        temperature (float): Base of the geometric row of wave lengths.

    Returns:
        Tensor: (height * width, channels) float32, row-major cells.
    """
    y = _axis_code(height, channels // 2, temperature, device)
    x = _axis_code(width, channels // 2, temperature, device)
    code = torch.cat(
        [
            y[:, None].expand(-1, width, -1),
            x[None].expand(height, -1, -1),
        ],
        dim=-1,
    )
    return code.flatten(0, 1)


def _axis_code(length, channels, temperature, device):
    position = torch.arange(1, length + 1, device=device, dtype=torch.float32)
    position = position / (length + 1e-6) * (2 * math.pi)
    index = torch.arange(channels, device=device, dtype=torch.float32)
    period = temperature ** (2 * (index // 2) / channels)
    phase = position[:, None] / period
    return torch.stack(
        [phase[:, 0::2].sin(), phase[:, 1::2].cos()], dim=-1
    ).flatten(1)


def cell_centres(shapes, device=None):
    """Find the centres of all cells of maps, one map after the other.

    Args:
        shapes (Sequence[tuple[int, int]]): Height and width of each map.
        device (torch.device, optional): Of the result.

    Returns:
        Tensor: (S, 2) float32, xy in [0, 1] of the map.
    """
    centres = []
    for h, w in shapes:
        y = (torch.arange(h, device=device, dtype=torch.float32) + 0.5) / h
        x = (torch.arange(w, device=device, dtype=torch.float32) + 0.5) / w
        grid = torch.stack(torch.meshgrid(x, y, indexing='xy'), dim=-1)
        centres.append(grid.flatten(0, 1))
    return torch.cat(centres)
