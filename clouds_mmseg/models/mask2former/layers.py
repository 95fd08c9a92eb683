"""Layers and positional encodings shared by the parts of the head."""

import math

import torch
import torch.nn.functional as F
from torch import nn


class ConvNorm(nn.Module):
    """Convolution, then group normalisation; the size of the map is kept.

    Args:
        in_channels (int): Channels of the input.
        out_channels (int): Channels of the output.
        kernel_size (int): Odd side of the kernel.
        num_groups (int): Groups of the normalisation.
        bias (bool): Whether the convolution has a bias.
    """

    def __init__(
        self, in_channels, out_channels, *, kernel_size, num_groups, bias
    ):
        super().__init__()
        self.conv = nn.Conv2d(
            in_channels,
            out_channels,
            kernel_size,
            padding=kernel_size // 2,
            bias=bias,
        )
        self.gn = nn.GroupNorm(num_groups, out_channels)

    def forward(self, x):
        """Map (N, in_channels, h, w) to (N, out_channels, h, w)."""
        return self.gn(self.conv(x))


class FeedForward(nn.Module):
    """Two linear layers with a ReLU between, added to the input.

    Args:
        channels (int): Channels of input and output.
        hidden_channels (int): Channels between the two layers.
    """

    # Rows at a time on the CPU, where there is no gradient.
    STRIP = 1024

    def __init__(self, channels, hidden_channels):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Sequential(nn.Linear(channels, hidden_channels), nn.ReLU()),
            nn.Linear(hidden_channels, channels),
        )

    def forward(self, x):
        """Map (N, rows, channels) to the same shape."""
        if torch.is_grad_enabled() or x.is_cuda:
            return x + self.layers(x)
        # Nobody asks for the hidden channels again: those of a few rows
        # stay in the cache.
        strips = x.split(self.STRIP, dim=1)
        return torch.cat([s + self.layers(s) for s in strips], dim=1)


class Attention(nn.Module):
    """Multi-head attention whose mask is shared by the heads, plus residual.

    ``torch.nn.MultiheadAttention`` wants the mask once for each head; here
    it is broadcast inside the fused kernel.

    Args:
        channels (int): Channels of queries, keys and values.
        num_heads (int): Heads, a divisor of ``channels``.
    """

    def __init__(self, channels, num_heads):
        super().__init__()
        self.attn = _Projections(channels)
        self.num_heads = num_heads

    def forward(self, query, key, value, mask=None, *, identity):
        """Attend.

        Args:
            query (Tensor): (N, Q, C), position included.
            key (Tensor): (N, K, C), position included.
            value (Tensor): (N, K, C).
            mask (Tensor, optional): (N, Q, K) bool, true where a query may
                attend.
            identity (Tensor): (N, Q, C), what the result is added to.

        Returns:
            Tensor: (N, Q, C).
        """
        weights = self.attn.in_proj_weight.chunk(3)
        biases = self.attn.in_proj_bias.chunk(3)
        q, k, v = (
            F.linear(x, w, b).unflatten(-1, (self.num_heads, -1))
            for x, w, b in zip(
                (query, key, value), weights, biases, strict=True
            )
        )
        out = F.scaled_dot_product_attention(
            q.transpose(1, 2),  # (N, heads, Q, C / heads)
            k.transpose(1, 2),
            v.transpose(1, 2),
            attn_mask=None if mask is None else mask[:, None],
        )
        return identity + self.attn.out_proj(out.transpose(1, 2).flatten(2))


class _Projections(nn.Module):
    """The parameters of attention, named as torch names them."""

    def __init__(self, channels):
        super().__init__()
        self.in_proj_weight = nn.Parameter(torch.empty(3 * channels, channels))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * channels))
        self.out_proj = nn.Linear(channels, channels)
        nn.init.xavier_uniform_(self.in_proj_weight)
        nn.init.zeros_(self.out_proj.bias)


def mlp(in_channels, hidden_channels, out_channels):
    """Three linear layers with ReLUs between, as the mask embedding has."""
    return nn.Sequential(
        nn.Linear(in_channels, hidden_channels),
        nn.ReLU(),
        nn.Linear(hidden_channels, hidden_channels),
        nn.ReLU(),
        nn.Linear(hidden_channels, out_channels),
    )


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
    y = _axis_encoding(height, channels // 2, temperature, device)
    x = _axis_encoding(width, channels // 2, temperature, device)
    code = torch.cat(
        [
            y[:, None].expand(-1, width, -1),
            x[None].expand(height, -1, -1),
        ],
        dim=-1,
    )
    return code.flatten(0, 1)


def _axis_encoding(length, channels, temperature, device):
    position = torch.arange(1, length + 1, device=device, dtype=torch.float32)
    position = position / (length + 1e-6) * (2 * math.pi)
    index = torch.arange(channels, device=device, dtype=torch.float32)
    period = temperature ** (2 * (index // 2) / channels)
    phase = position[:, None] / period
    return torch.stack(
        [phase[:, 0::2].sin(), phase[:, 1::2].cos()], dim=-1
    ).flatten(1)


def reference_points(shapes, device=None):
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
