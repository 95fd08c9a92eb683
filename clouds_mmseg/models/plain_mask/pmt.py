"""PMTHead: a plain mask transformer on the tokens of a frozen ViT.

PMT (arXiv 2603.25398; tue-mps/pmt): the normed tokens behind four blocks are
normalised, projected and summed; plain transformer blocks over queries and
patches follow.

Letters: N images, K classes, Q queries, n prefix tokens of the tower, C
channels, h and w of the patch grid, D width of an attention head.
"""

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from mmseg.registry import MODELS
from timm.models.eva import EvaBlock
from torch import Tensor, nn

from clouds_mmseg.models.mask2former.arguments import (
    check_counts,
    refuse_unknown,
)
from clouds_mmseg.models.plain_mask.plain_head import (
    PlainMaskHead,
    TokenState,
    unmoved,
)
from clouds_mmseg.utils.errors import UserError

_PROJECTIONS = ('mlp', 'linear', 'none')
# Largest period of the rotary positions, in units of the image's half side.
_LARGEST_PERIOD = 100
_HEAD_WIDTH = 64


@MODELS.register_module()
class PMTHead(PlainMaskHead):
    """PMT's decoder for a frozen ViT: no pixel decoder, plain attention.

    The backbone is a :class:`~clouds_mmseg.models.TIMMTower` with
    ``output='tokens'`` and ``norm=True``; widths and strides are taken from
    it. Attention blocks are those of DINOv3 (layer scale, no bias of the
    keys, rotary positions on the patches).

    Args:
        in_channels: Channels C of each map; by default the backbone's.
        num_classes: K, without "no object".
        strides: Of the maps: the patch size; by default the backbone's.
        num_queries: Q.
        num_blocks: Blocks of the decoder.
        num_heads: Attention heads; by default those of the backbone.
        ffn_channels: Hidden channels of the blocks; 4 C by default.
        level_norm: Batch normalisation of each of the levels, over all
            tokens of all processes.
        projection: How a level is projected: ``'mlp'`` of two layers,
            ``'linear'``, or ``'none'``.
        residual: Add a level to its projection.
        classifier: As for :class:`~clouds_mmseg.models.CLOUDSHead`.
        loss: Options of :class:`~.criterion.MaskCriterion`.
        align_corners: How the segmentor resizes the result.
        ignore_index: Label of pixels that belong to no class.
        threshold: As for :class:`~clouds_mmseg.models.CLOUDSHead`.
        init_cfg: mmengine's initialisation.
        **unknown: None; an option of an upstream head is an error.

    Raises:
        UserError: An argument is out of range or does not fit the backbone.
    """

    def __init__(
        self,
        *,
        in_channels: Sequence[int],
        num_classes: int,
        strides: Sequence[int],
        num_queries: int = 100,
        num_blocks: int = 6,
        num_heads: int | None = None,
        ffn_channels: int | None = None,
        level_norm: bool = True,
        projection: str = 'mlp',
        residual: bool = True,
        classifier: dict | None = None,
        loss: dict | None = None,
        align_corners: bool = False,
        ignore_index: int = 255,
        threshold: float = 0.5,
        init_cfg: dict | None = None,
        **unknown: Any,
    ):
        refuse_unknown('PMTHead', unknown, PMTHead.__init__)
        super().__init__(
            in_channels=in_channels,
            strides=strides,
            num_classes=num_classes,
            num_queries=num_queries,
            num_blocks=num_blocks,
            classifier=classifier,
            loss=loss,
            align_corners=align_corners,
            ignore_index=ignore_index,
            threshold=threshold,
            init_cfg=init_cfg,
        )
        channels, levels = in_channels[0], len(in_channels)
        if num_heads is None:
            num_heads = max(1, channels // _HEAD_WIDTH)
        if ffn_channels is None:
            ffn_channels = 4 * channels
        check_counts(num_heads=num_heads, ffn_channels=ffn_channels)
        # Sines and cosines of x and of y.
        if channels % (4 * num_heads):
            raise UserError(
                'PMTHead: the channels of the tower must be a multiple of 4 '
                f'num_heads, got {channels} with num_heads={num_heads}'
            )
        if projection not in _PROJECTIONS:
            raise UserError(
                f'projection of PMTHead must be one of {_PROJECTIONS}, got '
                f'{projection!r}'
            )
        self.residual = residual
        self.head_width = channels // num_heads
        self.level_norms = nn.ModuleList(
            nn.SyncBatchNorm(channels) if level_norm else nn.Identity()
            for _ in range(levels)
        )
        self.projections = nn.ModuleList(
            _projection(projection, channels) for _ in range(levels)
        )
        self.scales = nn.ParameterList(
            nn.Parameter(torch.ones(channels)) for _ in range(levels)
        )
        self.blocks = nn.ModuleList(
            EvaBlock(
                channels,
                num_heads,
                mlp_ratio=ffn_channels / channels,
                # begin() gives a rotary table for all tokens.
                num_prefix_tokens=0,
                rotate_half=True,
                init_values=1.0,
                norm_layer=partial(nn.LayerNorm, eps=1e-5),
            )
            for _ in range(num_blocks)
        )
        self.post_norm = nn.LayerNorm(channels)

    @classmethod
    def fit_to(cls, backbone: nn.Module, cfg: dict) -> dict:
        """Take widths, strides and heads of the backbone, and check it."""
        cfg = super().fit_to(backbone, cfg)
        if backbone.open_blocks:
            raise UserError(
                'PMTHead reads the output of a whole tower, but '
                f'model.backbone.open_blocks={backbone.open_blocks} leaves '
                'blocks to the head: leave it out, or take EoMTHead'
            )
        if not backbone.norm:
            raise UserError(
                'PMTHead reads the normed tokens of the tower: give '
                'model.backbone.norm=True'
            )
        return {'num_heads': backbone.num_heads, **cfg}

    def begin(self, x: Sequence[Tensor]) -> TokenState:
        """Sum the levels and put the queries among the tokens."""
        *maps, prefix = x
        size = tuple(maps[0].shape[-2:])
        merged = self.merge(
            [
                torch.cat([prefix[:, level], patches.flatten(2).mT], dim=1)
                for level, patches in enumerate(maps)
            ]
        )
        count = prefix.shape[2]
        tokens = self.join(merged[:, :count], merged[:, count:])
        periods = rotary_periods(self.head_width, tokens.device)
        table = rotary_table(size, periods)
        table = unmoved(table, count + self.num_queries)

        def run(index, tokens, mask):
            return self.blocks[index](tokens, rope=table, attn_mask=mask)

        return TokenState(tokens, count, size, run, self.post_norm)

    def merge(self, levels: Sequence[Tensor]) -> Tensor:
        """Normalise, project and sum the levels.

        Args:
            levels: Each (N, n + h w, C).

        Returns:
            (N, n + h w, C).
        """
        total = 0
        for index, level in enumerate(levels):
            # Over all tokens of all images.
            level = self.level_norms[index](level.flatten(0, 1)).view_as(level)
            projected = self.projections[index](level)
            if self.residual:
                projected = level + projected
            total = total + projected * self.scales[index]
        return total


def rotary_periods(width: int, device: torch.device) -> Tensor:
    """Return the periods of DINOv3's rotary positions.

    Args:
        width: D, a multiple of 4.
        device: Of the result.

    Returns:
        (D / 4,) float32: powers of 100, from 1 up, in units of half the image.
    """
    exponent = torch.arange(width // 4, device=device, dtype=torch.float32)
    return _LARGEST_PERIOD ** (exponent / (width // 4))


def rotary_table(size: Sequence[int], periods: Tensor) -> Tensor:
    """Compute the rotary positions of a grid of patches, as of DINOv3.

    The centres of the patches have coordinates in [-1, 1]. It can be recorded
    for variable sizes, unlike timm's.

    Args:
        size: h and w.
        periods: (D / 4,).

    Returns:
        (h w, 2 D): sines, then cosines, each of D / 4 angles of y, D / 4 of
        x, and both again.
    """
    centres = []
    for side in size:
        index = torch.arange(side, device=periods.device, dtype=torch.float32)
        centres.append(2 * ((index + 0.5) / side) - 1)
    y, x = torch.meshgrid(*centres, indexing='ij')
    position = torch.stack([y.flatten(), x.flatten()], dim=1)
    angles = 2 * math.pi * position[:, :, None] / periods
    angles = angles.flatten(1).tile(2)
    return torch.cat([angles.sin(), angles.cos()], dim=1)


def _projection(kind, channels):
    if kind == 'none':
        return nn.Identity()
    if kind == 'linear':
        return nn.Linear(channels, channels)
    return nn.Sequential(
        nn.Linear(channels, channels // 2),
        nn.GELU(),
        nn.Linear(channels // 2, channels),
    )
