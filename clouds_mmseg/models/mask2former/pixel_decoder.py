"""Pixel decoder of Mask2Former: deformable encoder, then one FPN step.

Letters: N images, S tokens (the pixels of the three coarse maps together),
C channels of a token.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clouds_mmseg.models.mask2former.deform_attn import (
    MultiScaleDeformableAttention,
)
from clouds_mmseg.models.mask2former.layers import (
    ConvNorm,
    FeedForward,
    reference_points,
    sine_encoding,
)

# Feature levels that the encoder works on, at strides 8, 16 and 32.
NUM_LEVELS = 3


class EncoderLayer(nn.Module):
    """Deformable self-attention and feed-forward, each then normalised.

    Args:
        channels: Channels C of the tokens.
        num_heads: Attention heads.
        num_points: Sampling points for each head and level.
        ffn_channels: Hidden channels of the feed-forward layer.
        deformable_sampling: See :class:`MultiScaleDeformableAttention`.
    """

    def __init__(
        self,
        *,
        channels: int,
        num_heads: int,
        num_points: int,
        ffn_channels: int,
        deformable_sampling: str | None = None,
    ):
        super().__init__()
        self.self_attn = MultiScaleDeformableAttention(
            channels=channels,
            num_heads=num_heads,
            num_levels=NUM_LEVELS,
            num_points=num_points,
            deformable_sampling=deformable_sampling,
        )
        self.ffn = FeedForward(channels, ffn_channels)
        self.norms = nn.ModuleList(nn.LayerNorm(channels) for _ in range(2))
        for layer in (self.ffn.layers[0][0], self.ffn.layers[1]):
            nn.init.xavier_uniform_(layer.weight)

    def forward(
        self,
        x: Tensor,
        position: Tensor,
        centres: Tensor,
        shapes: list[tuple[int, int]],
    ) -> Tensor:
        """Map tokens (N, S, C) to the same shape.

        Arguments as for :meth:`MultiScaleDeformableAttention.forward`.
        """
        x = self.norms[0](self.self_attn(x, position, centres, shapes))
        return self.norms[1](self.ffn(x))


class PixelDecoder(nn.Module):
    """Compute multi-scale features for the queries, and the mask features.

    Deformable self-attention runs over the three coarse maps; the finest map
    is used in the last, convolutional step only. Source: Mask2Former (arXiv
    2112.01527), section 3.2.1 and A.1.

    Args:
        in_channels: Channels of the backbone's four maps, finest first.
        feat_channels: Channels C of the multi-scale features.
        out_channels: Channels of the mask features.
        num_heads: Attention heads.
        num_layers: Encoder layers.
        ffn_channels: Hidden channels of the feed-forward layers.
        num_groups: Groups of the group normalisations.
        num_points: Sampling points for each head and level.
        deformable_sampling: See :class:`MultiScaleDeformableAttention`.
    """

    layer_class = EncoderLayer

    def __init__(
        self,
        *,
        in_channels: Sequence[int],
        feat_channels: int,
        out_channels: int,
        num_heads: int,
        num_layers: int,
        ffn_channels: int,
        num_groups: int,
        num_points: int,
        deformable_sampling: str | None = None,
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
            self.layer_class(
                channels=feat_channels,
                num_heads=num_heads,
                num_points=num_points,
                ffn_channels=ffn_channels,
                deformable_sampling=deformable_sampling,
            )
            for _ in range(num_layers)
        )
        self.level_encoding = nn.Embedding(NUM_LEVELS, feat_channels)
        # Lists of one module: the keys are those of pixel decoders with
        # several FPN steps.
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

    def forward(self, feats: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """Decode the maps of the backbone.

        Args:
            feats: Four maps (N, in_channels[i], h_i, w_i), finest first.

        Returns:
            The mask features (N, out_channels, h_0, w_0), and the multi-scale
            features, three maps (N, C, h_i, w_i), coarsest first.
        """
        coarse_first = feats[:0:-1]
        maps = [
            conv(feat)
            for conv, feat in zip(self.input_convs, coarse_first, strict=True)
        ]
        shapes = [tuple(x.shape[-2:]) for x in maps]
        # (N, S, C)
        x = torch.cat([m.flatten(2) for m in maps], dim=2).transpose(1, 2)
        position = self._positional_encoding(shapes, x)
        centres = reference_points(shapes, x.device)
        x = self.encode(x, position, centres, shapes, feats)
        sizes = [h * w for h, w in shapes]
        # With this order of view operations, the strides mark the maps as
        # channels last even at batch size 1: resizing them copies nothing.
        features = [
            tokens.unflatten(1, shape).permute(0, 3, 1, 2)
            for tokens, shape in zip(x.split(sizes, 1), shapes, strict=True)
        ]
        fine = self.lateral_convs[0](feats[0])
        # In place, as the ReLU below: the backward pass does not need the
        # previous values, and allocating a map of this size takes longer
        # than filling it.
        fine += F.interpolate(
            features[-1],
            size=fine.shape[-2:],
            mode='bilinear',
            align_corners=False,
        )
        on_cpu_in_fp32 = fine.dtype == torch.float32 and not fine.is_cuda
        if torch.is_grad_enabled() and on_cpu_in_fp32:
            # With the channels last, oneDNN takes 2.5 times longer for the
            # gradient of a 3 x 3 kernel in float32.
            fine = fine.contiguous()
        fine = F.relu(self.output_convs[0](fine), inplace=True)
        # The 1 x 1 convolution and the masks are products over the channels
        # of each pixel, and so are their gradients.
        fine = fine.contiguous(memory_format=torch.channels_last)
        return self.mask_feature(fine), features

    def encode(
        self,
        x: Tensor,
        position: Tensor,
        centres: Tensor,
        shapes: list[tuple[int, int]],
        feats: Sequence[Tensor],
    ) -> Tensor:
        """Apply the encoder layers to tokens (N, S, C).

        Arguments as for :meth:`EncoderLayer.forward`, and those of
        :meth:`forward`, which may carry more than the maps.
        """
        del feats
        for layer in self.encoder.layers:
            x = layer(x, position, centres, shapes)
        return x

    def _positional_encoding(self, shapes, x):
        """Sine encodings plus level encodings for tokens ``x``: (S, C)."""
        encodings = [
            sine_encoding(h, w, x.shape[-1], device=x.device) + level
            for (h, w), level in zip(
                shapes, self.level_encoding.weight, strict=True
            )
        ]
        return torch.cat(encodings)
