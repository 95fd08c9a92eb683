"""Layers and positional encodings that the parts of the head share."""

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class ConvNorm(nn.Module):
    """Convolution, then group normalisation; the size of the map is kept.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        kernel_size: Odd side of the kernel.
        num_groups: Groups of the normalisation.
        bias: Whether the convolution has a bias.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        kernel_size: int,
        num_groups: int,
        bias: bool,
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

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, in_channels, h, w) to (N, out_channels, h, w)."""
        return self.gn(self.conv(x))


class FeedForward(nn.Module):
    """Two linear layers with a ReLU between, added to the input.

    Args:
        channels: Channels of input and output.
        hidden_channels: Channels between the two layers.
    """

    # Tokens computed at a time on the CPU where there is no gradient.
    CHUNK_SIZE = 1024

    def __init__(self, channels: int, hidden_channels: int):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Sequential(nn.Linear(channels, hidden_channels), nn.ReLU()),
            nn.Linear(hidden_channels, channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, tokens, channels) to the same shape."""
        if (
            torch.is_grad_enabled()
            or x.is_cuda
            or torch.compiler.is_compiling()
        ):
            # An export has no fixed number of chunks.
            return x + self.layers(x)
        # Without a backward pass the hidden channels are not kept: those of
        # a chunk fit into the CPU's cache.
        chunks = x.split(self.CHUNK_SIZE, dim=1)
        return torch.cat([c + self.layers(c) for c in chunks], dim=1)


class Attention(nn.Module):
    """Multi-head attention whose mask is shared by the heads, plus residual.

    ``torch.nn.MultiheadAttention`` takes one copy of the mask for each head;
    here it is broadcast inside the fused kernel.

    Args:
        channels: Channels C of queries, keys and values.
        num_heads: Heads, a divisor of ``channels``.
    """

    def __init__(self, channels: int, num_heads: int):
        super().__init__()
        self.attn = _Projections(channels)
        self.num_heads = num_heads

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Tensor | None = None,
        *,
        identity: Tensor,
    ) -> Tensor:
        """Attend to the values and add the result to the residual.

        Args:
            query: (N, Q, C), positional encoding included.
            key: (N, K, C), positional encoding included.
            value: (N, K, C).
            mask: (N, Q, K) bool, true where a query may attend.
            identity: (N, Q, C), the residual.

        Returns:
            (N, Q, C).
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
    """Attention parameters under ``torch.nn.MultiheadAttention``'s names."""

    def __init__(self, channels):
        super().__init__()
        self.in_proj_weight = nn.Parameter(torch.empty(3 * channels, channels))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * channels))
        self.out_proj = nn.Linear(channels, channels)
        nn.init.xavier_uniform_(self.in_proj_weight)
        nn.init.zeros_(self.out_proj.bias)


def no_autocast(device: str) -> AbstractContextManager:
    """Switch autocast off for a block of operations.

    Args:
        device: Type of their device.

    Returns:
        A context. While ``torch.export`` records, which it does without
        autocast, it does nothing: a switch would become a sub-graph.
    """
    if torch.compiler.is_compiling() and not torch.is_autocast_enabled(device):
        return nullcontext()
    return torch.autocast(device, enabled=False)


def mlp(
    in_channels: int, hidden_channels: int, out_channels: int
) -> nn.Sequential:
    """Build three linear layers with ReLUs between, as of ``mask_embed``."""
    return nn.Sequential(
        nn.Linear(in_channels, hidden_channels),
        nn.ReLU(),
        nn.Linear(hidden_channels, hidden_channels),
        nn.ReLU(),
        nn.Linear(hidden_channels, out_channels),
    )


def sine_encoding(
    height: int,
    width: int,
    channels: int,
    *,
    device: torch.device | None = None,
    temperature: float = 1e4,
) -> Tensor:
    """Compute the sine positional encoding of each pixel of a map.

    Positions are counted from 1 and scaled so that the last row and column
    are at 2 pi. The first half of the channels encodes y, the second x;
    sines and cosines alternate. Source: the normalised sine encoding of DETR
    (arXiv 2005.12872, section A.4), as in Mask2Former.

    Args:
        height: Rows of the map.
        width: Columns of the map.
        channels: Length of an encoding, a multiple of 4.
        device: Device of the result.
        temperature: Base of the geometric progression of wavelengths.

    Returns:
        (height * width, channels) float32, pixels in row-major order.
    """
    y = _axis_encoding(height, channels // 2, temperature, device)
    x = _axis_encoding(width, channels // 2, temperature, device)
    encoding = torch.cat(
        [
            y[:, None].expand(-1, width, -1),
            x[None].expand(height, -1, -1),
        ],
        dim=-1,
    )
    return encoding.flatten(0, 1)


def _axis_encoding(length, channels, temperature, device):
    position = torch.arange(1, length + 1, device=device, dtype=torch.float32)
    position = position / (length + 1e-6) * (2 * math.pi)
    index = torch.arange(channels, device=device, dtype=torch.float32)
    period = temperature ** (2 * (index // 2) / channels)
    phase = position[:, None] / period
    return torch.stack(
        [phase[:, 0::2].sin(), phase[:, 1::2].cos()], dim=-1
    ).flatten(1)


def reference_points(
    shapes: Sequence[tuple[int, int]], device: torch.device | None = None
) -> Tensor:
    """Compute the pixel centres of several maps, one map after the other.

    Args:
        shapes: Height and width of each map.
        device: Device of the result.

    Returns:
        (S, 2) float32, xy in [0, 1] of the pixel's own map; S pixels of all
        maps together.
    """
    centres = []
    for h, w in shapes:
        y = (torch.arange(h, device=device, dtype=torch.float32) + 0.5) / h
        x = (torch.arange(w, device=device, dtype=torch.float32) + 0.5) / w
        grid = torch.stack(torch.meshgrid(x, y, indexing='xy'), dim=-1)
        centres.append(grid.flatten(0, 1))
    return torch.cat(centres)
