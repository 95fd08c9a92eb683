"""Rein: learned tokens that refine the features of a frozen tower.

Wei et al., "Stronger, Fewer, & Superior: Harnessing Vision Foundation Models
for Domain Generalized Semantic Segmentation" (CVPR 2024), section 3.

Letters: L blocks, m tokens, r their rank, C channels of a block, D channels
of the queries.
"""

import math

import torch
from torch import Tensor, nn


class ReinTokens(nn.Module):
    """The tokens of L blocks of one width, and the layers they share.

    Names and shapes of the ``state_dict`` are those of the checkpoints of
    Rein (``reins.*``).

    After block i, with ``T = tokens[i]`` (m, C)::

        S = softmax(f T' / sqrt(C))
        d = S[:, 1:] mlp_token2feat(T[1:])
        f <- f + scale * mlp_delta_f(f + d)

    The first token has no value: a position that resembles no other token
    is left alone.

    Args:
        num_layers: L.
        channels: C.
        num_tokens: m.
        rank: r; None for tokens of full rank.
        query_channels: D; None for an adapter without queries.
        patch_size: Of the tower; the bound of the random tokens depends on
            it.
        softmax: False uses the similarities as they are.
        zero_delta: Begin with an output layer of zeros and a constant scale
            of 1 instead of a learned scale of 0.001.
    """

    def __init__(
        self,
        num_layers: int,
        channels: int,
        *,
        num_tokens: int = 100,
        rank: int | None = 16,
        query_channels: int | None = 256,
        patch_size: int = 16,
        softmax: bool = True,
        zero_delta: bool = False,
    ):
        super().__init__()
        self.softmax = softmax
        self.rank = rank
        fan_out = channels if rank is None else math.sqrt(channels * rank)
        bound = math.sqrt(6 / (3 * patch_size**2 + fan_out))

        def tokens(*shape):
            return nn.Parameter(torch.empty(shape).uniform_(-bound, bound))

        if rank is None:
            self.learnable_tokens = tokens(num_layers, num_tokens, channels)
        else:
            self.learnable_tokens_a = tokens(num_layers, num_tokens, rank)
            self.learnable_tokens_b = tokens(num_layers, rank, channels)
        if zero_delta:
            self.register_parameter('scale', None)
        else:
            self.scale = nn.Parameter(torch.tensor(0.001))
        self.mlp_token2feat = nn.Linear(channels, channels)
        self.mlp_delta_f = nn.Linear(channels, channels)
        if zero_delta:
            nn.init.zeros_(self.mlp_delta_f.weight)
            nn.init.zeros_(self.mlp_delta_f.bias)
        if query_channels is not None:
            self.transform = nn.Linear(channels, query_channels)
            self.merge = nn.Linear(3 * query_channels, query_channels)

    def tokens(self, layer: int | slice = slice(None)) -> Tensor:
        """Return the tokens of one block (m, C), or of all (L, m, C)."""
        if self.rank is None:
            return self.learnable_tokens[layer]
        return self.learnable_tokens_a[layer] @ self.learnable_tokens_b[layer]

    def forward(self, features: Tensor, layer: int) -> Tensor:
        """Refine the features behind a block.

        Args:
            features: (..., C): the positions do not interact, so that their
                order and number of axes are free.
            layer: Number of the block in [0, L).

        Returns:
            The same shape.
        """
        tokens = self.tokens(layer)
        similarity = features @ tokens.T
        if self.softmax:
            similarity = similarity * features.shape[-1] ** -0.5
            similarity = similarity.softmax(dim=-1)
        delta = similarity[..., 1:] @ self.mlp_token2feat(tokens[1:])
        delta = self.mlp_delta_f(features + delta)
        if self.scale is not None:
            delta = delta * self.scale
        return features + delta

    def queries(self) -> Tensor:
        """Summarise the tokens of all blocks to queries for a mask head.

        Returns:
            (m, D). The maximum, the mean over the blocks and the last block
            are interleaved by channel before ``merge``.
        """
        projected = self.transform(self.tokens())  # (L, m, D)
        summaries = (projected.amax(0), projected.mean(0), projected[-1])
        return self.merge(torch.stack(summaries, dim=-1).flatten(-2))
