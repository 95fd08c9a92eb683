"""The small layers that the two halves of the head are built of.

Submodule names follow the state_dict of the MMSegmentation zoo.
"""

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
