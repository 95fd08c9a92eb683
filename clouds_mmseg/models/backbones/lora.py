"""Low-rank updates of linear layers: LoRA and SoMA.

``peft`` is not used: it renames the weights of the tower
(``qkv.base_layer.weight``), which strict loading and published checkpoints
refuse; a layer that computes query, key and value at once has one update
there, and three in SoMA; and a layer whose weight is read by another module
(``F.linear(x, attn.qkv.weight)`` in timm) is left without an update,
silently. Here every parameter of an adapter must receive a gradient.

Letters: r rank, g groups of rows of a weight, each with a low-rank update of
its own: 3 for a layer that computes query, key and value at once.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class LowRank(nn.Module):
    """The update ``scaling * B A`` of a weight (out, in).

    Args:
        in_features: Columns of the weight.
        out_features: Rows of the weight.
        rank: r.
        scaling: Factor, alpha / r.
        groups: g, a divisor of ``out_features``.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        rank: int,
        scaling: float,
        groups: int = 1,
    ):
        super().__init__()
        self.scaling = scaling
        self.groups = groups
        self.lora_A = nn.Linear(in_features, groups * rank, bias=False)
        self.lora_B = nn.Linear(rank, out_features, bias=False)
        nn.init.kaiming_uniform_(self.lora_A.weight, a=math.sqrt(5))
        nn.init.zeros_(self.lora_B.weight)

    def update(self, x: Tensor) -> Tensor:
        """Compute the update of the layer's output for inputs (..., in)."""
        low = self.lora_A(x)
        if self.groups == 1:
            return self.lora_B(low) * self.scaling
        low = low.unflatten(-1, (self.groups, -1))
        rows = self.lora_B.weight.unflatten(0, (self.groups, -1))
        output = torch.einsum('...gr,gor->...go', low, rows)
        return output.flatten(-2) * self.scaling

    def delta(self) -> Tensor:
        """Compute the update of the weight, (out, in)."""
        return self.product(self.lora_A.weight, self.lora_B.weight)

    def product(self, low: Tensor, high: Tensor) -> Tensor:
        """Multiply A (g * r, in) and B (out, r), group by group."""
        rows = high.unflatten(0, (self.groups, -1))
        columns = low.unflatten(0, (self.groups, -1))
        return (rows @ columns).flatten(0, 1) * self.scaling

    @torch.no_grad()
    def start_from(self, weight: Tensor, *, principal: bool = False) -> None:
        """Set A and B to a part of the singular value decomposition.

        ``delta()`` is then the part of ``weight`` that belongs to its r
        smallest singular values, in each group of rows.

        Args:
            weight: (out, in).
            principal: Take the r greatest instead.
        """
        rank = self.lora_B.in_features
        lows, highs = [], []
        for rows in weight.detach().float().chunk(self.groups):
            left, values, right = torch.linalg.svd(rows, full_matrices=False)
            part = slice(rank) if principal else slice(-rank, None)
            root = (values[part] / self.scaling).sqrt()
            lows.append(root[:, None] * right[part])
            highs.append(left[:, part] * root)
        self.lora_A.weight.copy_(torch.cat(lows))
        self.lora_B.weight.copy_(torch.cat(highs))


class LoRALinear(LowRank):
    """A linear layer with a low-rank update.

    Weight and bias keep the names of the layer that it replaces; the update
    is ``lora_A.weight`` (g * r, in) and ``lora_B.weight`` (out, r).

    Args:
        layer: The layer to replace. Its parameters are taken over.
        **kwargs: As for :class:`LowRank`.
    """

    def __init__(self, layer: nn.Linear, **kwargs: Any):
        super().__init__(layer.in_features, layer.out_features, **kwargs)
        self.in_features = layer.in_features
        self.out_features = layer.out_features
        self.weight = layer.weight
        self.bias = layer.bias

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layer and its update to (..., in)."""
        return F.linear(x, self.weight, self.bias) + self.update(x)

    def merged(self) -> nn.Linear:
        """Return an ordinary layer that computes the same."""
        layer = nn.Linear(
            self.in_features, self.out_features, device='meta', bias=False
        )
        layer.weight = nn.Parameter(
            (self.weight + self.delta()).detach(), requires_grad=False
        )
        layer.bias = self.bias
        return layer


class LoRAAttention(nn.MultiheadAttention):
    """``nn.MultiheadAttention`` with low-rank updates of both its weights.

    torch computes with the weights themselves and never calls
    ``out_proj``, so the updates are added to the weights. They are
    ``in_proj.lora_A``, ``in_proj.lora_B`` (query, key and value apart),
    ``out_proj.lora_A`` and ``out_proj.lora_B``.

    Args:
        layer: The attention of queries, keys and values of one width. Its
            parameters are taken over.
        **kwargs: ``rank`` and ``scaling`` of :class:`LowRank`.
    """

    def __init__(self, layer: nn.MultiheadAttention, **kwargs: Any):
        nn.Module.__init__(self)
        width = layer.embed_dim
        self.embed_dim = width
        self.num_heads = layer.num_heads
        self.batch_first = layer.batch_first
        self.in_proj_weight = layer.in_proj_weight
        self.in_proj_bias = layer.in_proj_bias
        self.in_proj = LowRank(width, 3 * width, groups=3, **kwargs)
        self.out_proj = LoRALinear(layer.out_proj, **kwargs)

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        need_weights: bool = False,
        attn_mask: Tensor | None = None,
    ) -> tuple[Tensor, None]:
        """Attend; the arguments are those that towers give.

        Args:
            query: (N, T, C), or (T, N, C) without ``batch_first``. Key and
                value are the same tensor.
            key: See ``query``.
            value: See ``query``.
            need_weights: Must be False.
            attn_mask: As for ``scaled_dot_product_attention``.

        Returns:
            The shape of ``query``, and None.
        """
        if need_weights or key is not query or value is not query:
            raise NotImplementedError('LoRA is for plain self-attention')
        projected = F.linear(query, self.in_proj_weight, self.in_proj_bias)
        projected = projected + self.in_proj.update(query)
        if not self.batch_first:
            projected = projected.transpose(0, 1)
        q, k, v = (
            part.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for part in projected.chunk(3, dim=-1)
        )
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=attn_mask)
        mixed = mixed.transpose(1, 2).flatten(-2)
        if not self.batch_first:
            mixed = mixed.transpose(0, 1)
        return self.out_proj(mixed), None

    def merged(self) -> nn.MultiheadAttention:
        """Return an ordinary attention that computes the same."""
        layer = nn.MultiheadAttention(
            self.embed_dim,
            self.num_heads,
            batch_first=self.batch_first,
            device='meta',
        )
        layer.in_proj_weight = nn.Parameter(
            (self.in_proj_weight + self.in_proj.delta()).detach(),
            requires_grad=False,
        )
        layer.in_proj_bias = self.in_proj_bias
        merged = self.out_proj.merged()
        layer.out_proj.weight, layer.out_proj.bias = merged.weight, merged.bias
        return layer
