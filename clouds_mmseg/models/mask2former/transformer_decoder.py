"""Transformer decoder of Mask2Former: masked attention of queries.

Letters: N images, Q queries, K tokens of a feature map, C channels.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from clouds_mmseg.models.mask2former.layers import Attention, FeedForward


class Level(NamedTuple):
    """A feature map that decoder layers attend to, flattened to tokens.

    Attributes:
        size: h and w of the map.
        key: (N, h * w, C), positional encoding included.
        value: (N, h * w, C).
    """

    size: torch.Size
    key: Tensor
    value: Tensor


class MaskedDecoder(nn.Module):
    """The layers of the transformer decoder and the norm of its outputs.

    The head loops over the layers: between two of them it predicts a mask
    for each query, inside of which the next layer attends. Source:
    Mask2Former (arXiv 2112.01527), section 3.2.

    Args:
        channels: Channels C of queries and features.
        num_heads: Attention heads.
        num_layers: Decoder layers.
        ffn_channels: Hidden channels of the feed-forward layers.
    """

    def __init__(
        self,
        *,
        channels: int,
        num_heads: int,
        num_layers: int,
        ffn_channels: int,
    ):
        super().__init__()
        self.layers = nn.ModuleList(
            DecoderLayer(channels, num_heads, ffn_channels)
            for _ in range(num_layers)
        )
        self.post_norm = nn.LayerNorm(channels)


class DecoderLayer(nn.Module):
    """Cross-attention, self-attention, feed-forward; each then normalised.

    Args:
        channels: Channels C of queries and features.
        num_heads: Attention heads.
        ffn_channels: Hidden channels of the feed-forward layer.
    """

    def __init__(self, channels: int, num_heads: int, ffn_channels: int):
        super().__init__()
        self.self_attn = Attention(channels, num_heads)
        self.cross_attn = Attention(channels, num_heads)
        self.ffn = FeedForward(channels, ffn_channels)
        self.norms = nn.ModuleList(nn.LayerNorm(channels) for _ in range(3))
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)

    def forward(
        self,
        query: Tensor,
        query_position: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Tensor,
    ) -> Tensor:
        """Map queries (N, Q, C) to the same shape.

        Args:
            query: (N, Q, C).
            query_position: (Q, C) or (N, Q, C), their positional encoding.
            key: (N, K, C), positional encoding included.
            value: (N, K, C).
            mask: (N, Q, K) bool, true where a query may attend.
        """
        query = self.norms[0](
            self.cross_attn(
                query + query_position, key, value, mask, identity=query
            )
        )
        positioned = query + query_position
        query = self.norms[1](
            self.self_attn(positioned, positioned, query, identity=query)
        )
        return self.norms[2](self.ffn(query))


def predict_masks(mask_embed: Tensor, mask_features: Tensor) -> Tensor:
    """Predict the mask of each query: its embedding times the mask features.

    Args:
        mask_embed: (N, Q, C).
        mask_features: (N, C, h, w).

    Returns:
        (N, Q, h, w) logits, channels last in memory: resizing and point
        sampling read all masks at a pixel together.
    """
    tokens = mask_features.flatten(2).transpose(1, 2)
    masks = tokens @ mask_embed.transpose(1, 2)  # (N, h * w, Q)
    return masks.transpose(1, 2).unflatten(2, mask_features.shape[-2:])


def build_attn_mask(mask_logits: Tensor) -> Tensor:
    """Turn predicted masks into attention masks.

    A query attends where its mask is at least one half. A query with an
    empty mask attends everywhere: a softmax over nothing is undefined.

    Args:
        mask_logits: (N, Q, h, w), at the size of the features.

    Returns:
        (N, Q, h * w) bool, true where a query may attend; no gradient.
    """
    inside = mask_logits.detach().flatten(2).sigmoid() >= 0.5
    return inside | ~inside.any(dim=-1, keepdim=True)
