"""What PMT and EoMT share: queries among the tokens of a ViT.

Letters: N images, K classes, Q queries, n prefix tokens of the tower (class
token, registers), C channels, h and w of the patch grid, T = n + Q + h w
tokens in this order.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from timm.layers import LayerNorm2d
from torch import Tensor, nn

from clouds_mmseg.models.mask2former.arguments import check_counts
from clouds_mmseg.models.mask2former.classifier import build_classifier
from clouds_mmseg.models.mask2former.mask_head import MaskHead
from clouds_mmseg.models.mask2former.transformer_decoder import predict_masks
from clouds_mmseg.utils.errors import UserError
from clouds_mmseg.utils.step_draws import ImageDraws

# Stride of the predicted masks with patches of 8, 16, 32, ... pixels.
_MASK_STRIDE = 4


class TokenState(NamedTuple):
    """Tokens on their way through the blocks.

    Attributes:
        tokens: (N, T, C).
        prefix: n.
        size: h and w.
        run: ``(index, tokens, mask) -> tokens``, runs a block.
        norm: Applied to the tokens before a prediction.
    """

    tokens: Tensor
    prefix: int
    size: tuple[int, int]
    run: Callable[[int, Tensor, Tensor | None], Tensor]
    norm: Callable[[Tensor], Tensor]


class PlainMaskHead(MaskHead):
    """Queries and patches in one sequence of tokens, and predictions of it.

    Before each block a class and a mask are predicted for each query from the
    normed tokens, and once more at the end. While masks are on, a query
    attends in the block to the patches inside of its mask, to all queries and
    to the prefix. Over the training masks are switched off, block after
    block, by :class:`~clouds_mmseg.engine.MaskAnnealingHook`: the finished
    network is a plain ViT, and predicts once.

    ``attn_mask_probs`` holds the probability with which a query is masked in
    each block. It is a buffer, saved with the weights. In evaluation a block
    masks all queries if it is at least one half, and none otherwise, so that
    results do not depend on chance (in the original they do).

    Args:
        in_channels: Channels of each map of the backbone, all C.
        strides: Their strides, all the patch size.
        num_classes: K.
        num_queries: Q.
        num_blocks: Blocks through which the queries go.
        classifier: As for :class:`~clouds_mmseg.models.CLOUDSHead`.
        loss: Options of :class:`~.criterion.MaskCriterion`.
        align_corners: How the segmentor resizes the result.
        ignore_index: Label of pixels that belong to no class.
        threshold: As for :class:`~clouds_mmseg.models.CLOUDSHead`.
        init_cfg: mmengine's initialisation.

    Raises:
        UserError: An argument is out of range, or the maps are not tokens of
            one width and stride.
    """

    takes = 'tokens'
    attn_mask_probs: Tensor

    def __init__(
        self,
        *,
        in_channels: Sequence[int],
        strides: Sequence[int],
        num_classes: int,
        num_queries: int,
        num_blocks: int,
        classifier: dict | None,
        loss: dict | None,
        align_corners: bool,
        ignore_index: int,
        threshold: float,
        init_cfg: dict | None,
    ):
        check_counts(
            num_classes=num_classes,
            num_queries=num_queries,
            num_blocks=num_blocks,
        )
        channels, patch = _only(in_channels, strides, type(self).__name__)
        steps = max(1, int(math.log2(patch)) - int(math.log2(_MASK_STRIDE)))
        if patch % 2**steps:
            raise UserError(
                f'{type(self).__name__}: patches of {patch} pixels cannot be '
                f'halved {steps} times; give model.backbone.patch_size=16'
            )
        super().__init__(
            num_classes=num_classes,
            strides=strides,
            mask_stride=patch // 2**steps,
            loss=loss,
            align_corners=align_corners,
            ignore_index=ignore_index,
            threshold=threshold,
            init_cfg=init_cfg,
        )
        self.num_queries = num_queries
        self.num_blocks = num_blocks
        self.query_feat = nn.Embedding(num_queries, channels)
        self.cls_embed = build_classifier(
            classifier or dict(type='linear'),
            channels=channels,
            mask_channels=channels,
            num_classes=num_classes,
        )
        self.mask_embed = nn.Sequential(
            nn.Linear(channels, channels),
            nn.GELU(),
            nn.Linear(channels, channels),
            nn.GELU(),
            nn.Linear(channels, channels),
        )
        self.upscale = nn.Sequential(
            *(Upscale(channels) for _ in range(steps))
        )
        self.register_buffer('attn_mask_probs', torch.ones(num_blocks))
        # Set while a program is recorded, which has no data to branch on.
        self.recorded_probs: tuple[float, ...] | None = None

    @classmethod
    def fit_to(cls, backbone: nn.Module, cfg: dict) -> dict:
        """Take widths and strides of the backbone; see :class:`MaskHead`."""
        if getattr(backbone, 'output', None) != 'tokens':
            raise UserError(
                f'{cls.__name__} reads the tokens of a plain ViT: give '
                "model.backbone a TIMMTower with output='tokens', got "
                f'{type(backbone).__name__}'
                + (
                    f' with output={backbone.output!r}'
                    if hasattr(backbone, 'output')
                    else ''
                )
            )
        return {
            'in_channels': list(backbone.channels),
            'strides': list(backbone.strides),
            **cfg,
        }

    def mask_probabilities(self) -> tuple[float, ...]:
        """Return the probability of each block that a query is masked."""
        if self.recorded_probs is not None:
            return self.recorded_probs
        return tuple(self.attn_mask_probs.tolist())

    def forward(
        self, x: Sequence[Tensor], batch_data_samples: list | None = None
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Predict classes and masks for every query, before each block.

        Args:
            x: Maps (N, C, h, w), then prefix tokens (N, maps, n, C).
            batch_data_samples: Not used.

        Returns:
            Class logits (N, Q, K + 1), the last one "no object", and mask
            logits (N, Q, h S, w S), S the patch size over
            ``mask_stride``: before each block, and after the last.
        """
        del batch_data_samples
        classes, masks, _, _ = self._decode(x)
        return classes, masks

    def predict_for_loss(
        self, x: Sequence[Tensor]
    ) -> tuple[list[Tensor], list[Tensor], list[Tensor], list[Tensor]]:
        """Predict as :meth:`forward` does, with masks without gradient.

        Args:
            x: As for :meth:`forward`.

        Returns:
            See :meth:`MaskHead.predict_for_loss`; each output has mask
            features of its own.
        """
        return self._decode(x, detach_masks=True)

    def last_prediction(self, x: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Predict classes and masks for every query, after the last block.

        Masks before blocks that use none are not predicted, and the others
        at the size of the grid only: resizing and the product with the
        embeddings are linear.

        Args:
            x: As for :meth:`forward`.

        Returns:
            The last class and mask logits of :meth:`forward`, up to rounding.
        """
        state = self.begin(x)
        for index, probability in enumerate(self.mask_probabilities()):
            mask = None
            if self._masks_any(probability):
                queries, patches = self._split(state)
                features = _resize(self.upscale(patches), state.size)
                logits = predict_masks(self.mask_embed(queries), features)
                mask = self._attn_mask(state, logits, probability)
            state = self._run(state, index, mask)
        queries, patches = self._split(state)
        features = self.upscale(patches)
        masks = predict_masks(self.mask_embed(queries), features)
        return self.cls_embed(queries, features, masks), masks

    def _decode(self, x, *, detach_masks=False):
        """Predict before each block and after the last."""
        state = self.begin(x)
        cls_logits, mask_logits, mask_embeds, mask_features = [], [], [], []
        for index in range(self.num_blocks + 1):
            queries, patches = self._split(state)
            features = self.upscale(patches)
            embed = self.mask_embed(queries)
            if detach_masks:
                masks = predict_masks(embed.detach(), features.detach())
            else:
                masks = predict_masks(embed, features)
            cls_logits.append(self.cls_embed(queries, features, masks))
            mask_logits.append(masks)
            mask_embeds.append(embed)
            mask_features.append(features)
            if index == self.num_blocks:
                break
            mask = None
            probability = self.mask_probabilities()[index]
            if self._masks_any(probability):
                resized = _resize(masks.detach(), state.size)
                mask = self._attn_mask(state, resized, probability)
            state = self._run(state, index, mask)
        return cls_logits, mask_logits, mask_embeds, mask_features

    def begin(self, x: Sequence[Tensor]) -> TokenState:
        """Put the queries among the tokens.

        Args:
            x: As for :meth:`forward`.

        Returns:
            The tokens before the first block.
        """
        raise NotImplementedError

    def join(self, prefix: Tensor, patches: Tensor) -> Tensor:
        """Join (N, n, C), the queries and (N, h w, C) to (N, T, C)."""
        queries = self.query_feat.weight.expand(patches.shape[0], -1, -1)
        return torch.cat([prefix, queries.to(patches.dtype), patches], dim=1)

    def _split(self, state):
        """Return normed queries (N, Q, C) and patches (N, C, h, w)."""
        normed = state.norm(state.tokens)
        end = state.prefix + self.num_queries
        patches = normed[:, end:].transpose(1, 2)
        return normed[:, state.prefix : end], patches.unflatten(2, state.size)

    @staticmethod
    def _run(state, index, mask):
        return state._replace(tokens=state.run(index, state.tokens, mask))

    def _masks_any(self, probability):
        """Return whether a block masks queries at all."""
        return probability > 0 if self.training else probability >= 0.5

    def _attn_mask(self, state, logits, probability):
        """Build the mask of a block: (N, 1, T, T), true where to attend.

        Args:
            state: The tokens.
            logits: (N, Q, h, w) of the masks, at the size of the grid.
            probability: That a query is masked, in training.
        """
        inside = logits.detach().flatten(2) > 0
        if self.training and probability < 1:
            draws = ImageDraws([0] * len(inside), inside.device)
            free = draws.images(1, inside.shape[1])[0]
            inside = inside | (free > probability)[..., None]
        end = state.prefix + self.num_queries
        total = end + inside.shape[2]
        mask = inside.new_ones(inside.shape[0], 1, total, total)
        mask[:, 0, state.prefix : end, end:] = inside
        return mask


class Upscale(nn.Module):
    """Double the size of a map (N, C, h, w).

    Args:
        channels: C.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.conv1 = nn.ConvTranspose2d(channels, channels, 2, stride=2)
        self.conv2 = nn.Conv2d(
            channels, channels, 3, padding=1, groups=channels, bias=False
        )
        self.norm = LayerNorm2d(channels, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, h, w) to (N, C, 2 h, 2 w)."""
        return self.norm(self.conv2(F.gelu(self.conv1(x))))


def unmoved(table: Tensor, count: int) -> Tensor:
    """Put tokens without a position before those of a rotary table.

    Args:
        table: (..., T, 2 D), sines before cosines.
        count: Tokens that are not rotated.

    Returns:
        (..., count + T, 2 D).
    """
    width = table.shape[-1] // 2
    still = table.new_zeros(*table.shape[:-2], count, 2 * width)
    still[..., width:] = 1
    return torch.cat([still, table], dim=-2)


def _only(in_channels, strides, name):
    """Return the one width and the one stride of tokens."""
    if len(in_channels) != len(strides) or not in_channels:
        raise UserError(
            f'{name}: in_channels and strides need one number a map, got '
            f'{list(in_channels)} and {list(strides)}'
        )
    for what, values in (('in_channels', in_channels), ('strides', strides)):
        if len(set(values)) > 1:
            raise UserError(
                f'{name} reads tokens of one width and one patch size, got '
                f"{what}={list(values)}; give model.backbone output='tokens'"
            )
    return in_channels[0], strides[0]


def _resize(maps, size):
    return F.interpolate(maps, size=size, mode='bilinear', align_corners=False)
