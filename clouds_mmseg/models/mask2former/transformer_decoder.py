"""The transformer decoder of Mask2Former: masked attention of queries."""

from torch import nn

from clouds_mmseg.models.mask2former.layers import Attention, FeedForward


class MaskedDecoder(nn.Module):
    """Queries read the memories, each where its own mask lies.

    Source: Mask2Former (arXiv 2112.01527), section 3.2.

    Args:
        channels (int): Channels of queries and memories.
        num_heads (int): Attention heads.
        num_layers (int): Decoder layers; layer i reads memory i modulo
            their number.
        ffn_channels (int): Hidden channels of the feed-forward layers.
    """

    def __init__(self, *, channels, num_heads, num_layers, ffn_channels):
        super().__init__()
        self.layers = nn.ModuleList(
            DecoderLayer(channels, num_heads, ffn_channels)
            for _ in range(num_layers)
        )
        self.post_norm = nn.LayerNorm(channels)

    def forward(self, query, query_position, memories, positions, predict):
        """Refine the queries layer by layer.

        Args:
            query (Tensor): (N, Q, C), the learned queries.
            query_position (Tensor): (Q, C), their learned positions.
            memories (list[Tensor]): Maps (N, K_i, C), flattened, with their
                level's code added.
            positions (list[Tensor]): (K_i, C), position codes of the maps.
            predict (Callable): ``predict(query, level)`` with normalised
                queries (N, Q, C) gives a prediction and the attention mask
                for memory ``level``: (N, Q, K_level) bool, or None for the
                level None.

        Returns:
            list: The predictions before the first layer and after each.
        """
        levels = [i % len(memories) for i in range(len(self.layers))]
        keys = [m + p for m, p in zip(memories, positions, strict=True)]
        outputs = []
        for layer, level in zip(self.layers, levels, strict=True):
            output, mask = predict(self.post_norm(query), level)
            outputs.append(output)
            query = layer(
                query, query_position, keys[level], memories[level], mask
            )
        outputs.append(predict(self.post_norm(query), None)[0])
        return outputs


class DecoderLayer(nn.Module):
    """Cross-attention, self-attention, feed-forward; each then normalised.

    Args:
        channels (int): Channels of queries and memories.
        num_heads (int): Attention heads.
        ffn_channels (int): Hidden channels of the feed-forward layer.
    """

    def __init__(self, channels, num_heads, ffn_channels):
        super().__init__()
        self.self_attn = Attention(channels, num_heads)
        self.cross_attn = Attention(channels, num_heads)
        self.ffn = FeedForward(channels, ffn_channels)
        self.norms = nn.ModuleList(nn.LayerNorm(channels) for _ in range(3))
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)

    def forward(self, query, query_position, key, value, mask):
        """Map queries (N, Q, C) to the same shape.

        Args:
            query (Tensor): (N, Q, C).
            query_position (Tensor): (Q, C).
            key (Tensor): (N, K, C), position included.
            value (Tensor): (N, K, C).
            mask (Tensor): (N, Q, K) bool, true where a query may attend.
        """
        query = self.norms[0](
            self.cross_attn(
                query + query_position, key, value, mask, identity=query
            )
        )
        placed = query + query_position
        query = self.norms[1](
            self.self_attn(placed, placed, query, identity=query)
        )
        return self.norms[2](self.ffn(query))


def attendable(mask_logits):
    """Turn predicted masks into attention masks.

    A query attends where its mask is at least one half; a query with an
    empty mask attends everywhere, as attention to nothing is undefined.

    Args:
        mask_logits (Tensor): (N, Q, h, w), at the size of the memory.

    Returns:
        Tensor: (N, Q, h * w) bool, without gradient.
    """
    inside = mask_logits.detach().flatten(2).sigmoid() >= 0.5
    return inside | ~inside.any(dim=-1, keepdim=True)
