"""Multi-scale deformable attention (arXiv 2010.04159, section 4.1).

Letters: N batch, S cells of all levels, Q queries, H heads, L levels,
P points, D channels of one head.
"""

import math

import torch
from torch import nn

from clouds_mmseg.models.mask2former.deform_sampling import deformable_sample


class MultiScaleDeformableAttention(nn.Module):
    """Each query reads a few learned places of every level.

    Args:
        channels (int): Channels of queries and values.
        num_heads (int): Heads, a divisor of ``channels``.
        num_levels (int): Maps that are read.
        num_points (int): Places read in each map, for each head.
    """

    def __init__(self, *, channels, num_heads, num_levels, num_points):
        super().__init__()
        self.num_heads = num_heads
        self.num_levels = num_levels
        self.num_points = num_points
        places = num_heads * num_levels * num_points
        self.sampling_offsets = nn.Linear(channels, places * 2)
        self.attention_weights = nn.Linear(channels, places)
        self.value_proj = nn.Linear(channels, channels)
        self.output_proj = nn.Linear(channels, channels)
        self._init_parameters()

    def _init_parameters(self):
        # Each head starts by looking in its own direction, each point one
        # cell further than the last, all with equal weight.
        angle = torch.arange(self.num_heads) * (2 * math.pi / self.num_heads)
        ray = torch.stack([angle.cos(), angle.sin()], dim=-1)
        ray = ray / ray.abs().amax(dim=-1, keepdim=True)
        reach = torch.arange(1, self.num_points + 1)
        offsets = ray[:, None, None] * reach[:, None]  # (H, 1, P, 2)
        offsets = offsets.expand(-1, self.num_levels, -1, -1)
        with torch.no_grad():
            self.sampling_offsets.bias.copy_(offsets.flatten())
        nn.init.zeros_(self.sampling_offsets.weight)
        nn.init.zeros_(self.attention_weights.weight)
        nn.init.zeros_(self.attention_weights.bias)
        for layer in (self.value_proj, self.output_proj):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, x, position, centres, shapes):
        """Let every cell of the maps attend to the maps; add the input.

        Args:
            x (Tensor): (N, S, C), the maps flattened, one after the other.
            position (Tensor): (S, C), position codes for the queries.
            centres (Tensor): (S, 2) float32, xy of each cell in [0, 1].
            shapes (list[tuple[int, int]]): Height and width of each map.

        Returns:
            Tensor: (N, S, C).
        """
        query = x + position
        heads = (self.num_heads, self.num_levels, self.num_points)
        # Places are computed in float32 even under autocast: half precision
        # cannot tell neighbouring cells of a large map apart.
        offsets = self.sampling_offsets(query).float()  # (N, Q, H * L * P * 2)
        cells = offsets.new_tensor([[w, h] for h, w in shapes])[:, None]
        cells = cells.expand(*heads, 2).flatten()
        centres = centres.repeat(1, math.prod(heads))
        places = (centres + offsets / cells).unflatten(-1, (*heads, 2))
        weights = self.attention_weights(query).float()
        weights = weights.unflatten(-1, (self.num_heads, -1)).softmax(-1)
        weights = weights.unflatten(-1, heads[1:])  # (N, Q, H, L, P)
        value = self.value_proj(x).unflatten(-1, (self.num_heads, -1))
        out = deformable_sample(value, shapes, places, weights)
        return x + self.output_proj(out.to(x.dtype))
