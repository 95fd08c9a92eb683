"""The pixel decoder of Mask2Former: deformable encoder, then one FPN step."""

import torch
import torch.nn.functional as F
from torch import nn

from clouds_mmseg.models.mask2former.deform_attn import (
    MultiScaleDeformableAttention,
)
from clouds_mmseg.models.mask2former.layers import (
    ConvNorm,
    FeedForward,
    reference_points,
    sine_encoding,
)

NUM_LEVELS = 3


class PixelDecoder(nn.Module):
    """Backbone maps to memories for the queries and one fine map for masks.

    The three coarse maps exchange what they know through deformable
    attention; the finest map takes part in the last, convolutional step
    only. Source: Mask2Former (arXiv 2112.01527), section 3.2.1 and A.1.

    Args:
        in_channels (list[int]): Channels of the four maps, finest first.
        feat_channels (int): Channels of the memories.
        out_channels (int): Channels of the map for masks.
        num_heads (int): Attention heads.
        num_layers (int): Encoder layers.
        ffn_channels (int): Hidden channels of the feed-forward layers.
        num_groups (int): Groups of the normalisations.
        num_points (int): Places read for each head and level.
    """

    def __init__(
        self,
        *,
        in_channels,
        feat_channels,
        out_channels,
        num_heads,
        num_layers,
        ffn_channels,
        num_groups,
        num_points,
    ):
        super().__init__()
        self.input_convs = nn.ModuleList(
            ConvNorm(
                channels,
                feat_channels,
                kernel_size=1,
                num_groups=num_groups,
                bias=True,
            )
            for channels in reversed(in_channels[1:])
        )
        self.encoder = nn.Module()
        self.encoder.layers = nn.ModuleList(
            EncoderLayer(
                channels=feat_channels,
                num_heads=num_heads,
                num_points=num_points,
                ffn_channels=ffn_channels,
            )
            for _ in range(num_layers)
        )
        self.level_encoding = nn.Embedding(NUM_LEVELS, feat_channels)
        # Lists of one keep the key names of pixel decoders with more steps.
        self.lateral_convs = nn.ModuleList(
            [
                ConvNorm(
                    in_channels[0],
                    feat_channels,
                    kernel_size=1,
                    num_groups=num_groups,
                    bias=False,
                )
            ]
        )
        self.output_convs = nn.ModuleList(
            [
                ConvNorm(
                    feat_channels,
                    feat_channels,
                    kernel_size=3,
                    num_groups=num_groups,
                    bias=False,
                )
            ]
        )
        self.mask_feature = nn.Conv2d(feat_channels, out_channels, 1)
        self._init_parameters()

    def _init_parameters(self):
        for block in self.input_convs:
            nn.init.xavier_uniform_(block.conv.weight)
            nn.init.zeros_(block.conv.bias)
        for conv in (
            self.lateral_convs[0].conv,
            self.output_convs[0].conv,
            self.mask_feature,
        ):
            nn.init.kaiming_uniform_(conv.weight, a=1)
        nn.init.zeros_(self.mask_feature.bias)

    def forward(self, feats):
        """Run the decoder.

        Args:
            feats (Sequence[Tensor]): Four maps (N, in_channels[i], h_i,
                w_i), finest first.

        Returns:
            tuple: ``(mask_features, memories)``: a map (N, out_channels,
            h_0, w_0), and three maps (N, feat_channels, h_i, w_i), coarsest
            first.
        """
        coarse_first = feats[:0:-1]
        maps = [
            conv(feat)
            for conv, feat in zip(self.input_convs, coarse_first, strict=True)
        ]
        shapes = [tuple(x.shape[-2:]) for x in maps]
        x = torch.cat([m.flatten(2) for m in maps], dim=2).transpose(1, 2)
        position = self._positions(shapes, x)
        centres = reference_points(shapes, x.device)
        for layer in self.encoder.layers:
            x = layer(x, position, centres, shapes)
        sizes = [h * w for h, w in shapes]
        # In this order of views the strides of a batch of one still tell that
        # the channels are last: resizing then copies nothing.
        memories = [
            part.unflatten(1, shape).permute(0, 3, 1, 2)
            for part, shape in zip(x.split(sizes, 1), shapes, strict=True)
        ]
        fine = self.lateral_convs[0](feats[0])
        # In place, as the ReLU below: no gradient asks for what was there,
        # and a map of this size takes longer to get than to fill.
        fine += F.interpolate(
            memories[-1],
            size=fine.shape[-2:],
            mode='bilinear',
            align_corners=False,
        )
        rows_are_slow = fine.dtype == torch.float32 and not fine.is_cuda
        if torch.is_grad_enabled() and rows_are_slow:
            # With the channels last, oneDNN takes 2.5 times longer for the
            # gradient of a 3 x 3 kernel in float32.
            fine = fine.contiguous()
        fine = F.relu(self.output_convs[0](fine), inplace=True)
        # What is made of the map, and the gradient of it, are of rows.
        fine = fine.contiguous(memory_format=torch.channels_last)
        return self.mask_feature(fine), memories

    def _positions(self, shapes, like):
        codes = [
            sine_encoding(h, w, like.shape[-1], device=like.device) + level
            for (h, w), level in zip(
                shapes, self.level_encoding.weight, strict=True
            )
        ]
        return torch.cat(codes)


class EncoderLayer(nn.Module):
    """Deformable self-attention and feed-forward, each then normalised.

    Args:
        channels (int): Channels of the maps.
        num_heads (int): Attention heads.
        num_points (int): Places read for each head and level.
        ffn_channels (int): Hidden channels of the feed-forward layer.
    """

    def __init__(self, *, channels, num_heads, num_points, ffn_channels):
        super().__init__()
        self.self_attn = MultiScaleDeformableAttention(
            channels=channels,
            num_heads=num_heads,
            num_levels=NUM_LEVELS,
            num_points=num_points,
        )
        self.ffn = FeedForward(channels, ffn_channels)
        self.norms = nn.ModuleList(nn.LayerNorm(channels) for _ in range(2))
        for layer in (self.ffn.layers[0][0], self.ffn.layers[1]):
            nn.init.xavier_uniform_(layer.weight)

    def forward(self, x, position, centres, shapes):
        """Map (N, S, C) to the same shape; see the attention's arguments."""
        x = self.norms[0](self.self_attn(x, position, centres, shapes))
        return self.norms[1](self.ffn(x))
