"""CLOUDSHead: the decode head of Mask2Former in pure PyTorch.

Checkpoints of MMSegmentation's ``Mask2FormerHead`` have the same keys.
Letters: N images, K classes, Q queries, C channels, h_i and w_i of the four
feature maps (h_0, w_0 of the finest), H and W of the network's input.
"""

from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from mmseg.registry import MODELS
from torch import Tensor, nn

from clouds_mmseg.models.mask2former.arguments import (
    check_counts,
    check_widths,
    refuse_unknown,
)
from clouds_mmseg.models.mask2former.classifier import build_classifier
from clouds_mmseg.models.mask2former.layers import mlp, sine_encoding
from clouds_mmseg.models.mask2former.mask_head import MaskHead
from clouds_mmseg.models.mask2former.pixel_decoder import (
    NUM_LEVELS,
    PixelDecoder,
)
from clouds_mmseg.models.mask2former.transformer_decoder import (
    Level,
    MaskedDecoder,
    build_attn_mask,
    predict_masks,
)
from clouds_mmseg.utils.errors import UserError


@MODELS.register_module()
class CLOUDSHead(MaskHead):
    """Mask2Former's decode head (arXiv 2112.01527) as CLOUDS trains it.

    With the linear classifier, names and shapes of the ``state_dict`` are
    those of MMSegmentation's ``Mask2FormerHead``, whose zoo checkpoints load
    unchanged. No compiled operators are needed.

    Args:
        in_channels: Channels of the backbone's four maps, finest first.
        num_classes: K, without "no object".
        strides: Strides of the four maps.
        feat_channels: Channels C of features and queries: a multiple of 4,
            ``num_heads`` and ``num_groups``.
        out_channels: Channels of the mask features. The attribute of this
            name is K, which is what ``EncoderDecoder`` reads it for.
        num_queries: Q.
        queries: ``'learned'``, as Mask2Former; or ``'backbone'``: an adapter
            of the backbone hands Q queries to the head (Rein, CVPR 2024,
            section 3.3). They are the positions of the queries, and their
            initial features are a linear function of them
            (``querys2feat``).
        num_heads: Heads of every attention.
        num_encoder_layers: Layers of the pixel decoder.
        encoder_ffn_channels: Hidden channels of their feed-forward layers.
        num_decoder_layers: Layers of the transformer decoder.
        decoder_ffn_channels: Hidden channels of their feed-forward layers.
        num_groups: Groups of the group normalisations.
        num_points: Sampling points of deformable attention in each map.
        deformable_sampling: How they are read: ``grid_sample``, ``cpu``,
            ``triton`` (never run on a GPU yet) or ``mmcv`` (where its ops
            are compiled). By default ``cpu`` on the CPU and ``grid_sample``
            on GPUs; see :mod:`~clouds_mmseg.models.mask2former.deform_attn`.
        classifier: ``dict(type='linear')``, the default, or
            ``dict(type='text', text_embeddings=...)`` with the further
            arguments of
            :func:`~clouds_mmseg.models.text_embeddings.load_text_embeddings`.
        loss: Options of :class:`~.criterion.MaskCriterion`; the defaults are
            those of CLOUDS.
        align_corners: How the segmentor resizes the result.
        ignore_index: Label of pixels that belong to no class.
        threshold: With ``num_classes=1``: the class is predicted where its
            score is greater, elsewhere 255 ("nothing"). Not read otherwise.
        init_cfg: mmengine's initialisation.
        **unknown: None; an option of an upstream head is an error that names
            the one of this class.

    Raises:
        UserError: For an argument that breaks one of the rules above, for text
            embeddings that do not fit the classes, and for an implementation
            of ``deformable_sampling`` that is not here.
    """

    def __init__(
        self,
        *,
        in_channels: Sequence[int],
        num_classes: int,
        strides: Sequence[int] = (4, 8, 16, 32),
        feat_channels: int = 256,
        out_channels: int = 256,
        num_queries: int = 100,
        queries: str = 'learned',
        num_heads: int = 8,
        num_encoder_layers: int = 6,
        encoder_ffn_channels: int = 1024,
        num_decoder_layers: int = 9,
        decoder_ffn_channels: int = 2048,
        num_groups: int = 32,
        num_points: int = 4,
        deformable_sampling: str | None = None,
        classifier: dict | None = None,
        loss: dict | None = None,
        align_corners: bool = False,
        ignore_index: int = 255,
        threshold: float = 0.5,
        init_cfg: dict | None = None,
        **unknown: Any,
    ):
        refuse_unknown('CLOUDSHead', unknown, CLOUDSHead.__init__)
        check_counts(
            num_classes=num_classes,
            feat_channels=feat_channels,
            out_channels=out_channels,
            num_queries=num_queries,
            num_heads=num_heads,
            num_encoder_layers=num_encoder_layers,
            encoder_ffn_channels=encoder_ffn_channels,
            num_decoder_layers=num_decoder_layers,
            decoder_ffn_channels=decoder_ffn_channels,
            num_groups=num_groups,
            num_points=num_points,
        )
        check_widths(
            in_channels=in_channels,
            strides=strides,
            feat_channels=feat_channels,
            num_heads=num_heads,
            groups=num_groups,
        )
        super().__init__(
            num_classes=num_classes,
            strides=strides,
            loss=loss,
            align_corners=align_corners,
            ignore_index=ignore_index,
            threshold=threshold,
            init_cfg=init_cfg,
        )
        self.pixel_decoder = self._build_pixel_decoder(
            in_channels=in_channels,
            feat_channels=feat_channels,
            out_channels=out_channels,
            num_heads=num_heads,
            num_layers=num_encoder_layers,
            ffn_channels=encoder_ffn_channels,
            num_groups=num_groups,
            num_points=num_points,
            deformable_sampling=deformable_sampling,
        )
        self.transformer_decoder = MaskedDecoder(
            channels=feat_channels,
            num_heads=num_heads,
            num_layers=num_decoder_layers,
            ffn_channels=decoder_ffn_channels,
        )
        self.queries = queries
        self.num_queries = num_queries
        self.feat_channels = feat_channels
        self._build_queries()
        self.level_embed = nn.Embedding(NUM_LEVELS, feat_channels)
        self.cls_embed = build_classifier(
            classifier or dict(type='linear'),
            channels=feat_channels,
            mask_channels=out_channels,
            num_classes=num_classes,
        )
        self.mask_embed = mlp(feat_channels, feat_channels, out_channels)

    def _build_pixel_decoder(self, **kwargs: Any) -> PixelDecoder:
        """Build the pixel decoder; a seam for heads that extend it."""
        return PixelDecoder(**kwargs)

    def _build_queries(self) -> None:
        """Build the parameters of the queries.

        Raises:
            UserError: ``queries`` is unknown.
        """
        channels = self.feat_channels
        if self.queries == 'learned':
            self.query_embed = nn.Embedding(self.num_queries, channels)
            self.query_feat = nn.Embedding(self.num_queries, channels)
        elif self.queries == 'backbone':
            self.querys2feat = nn.Linear(channels, channels)
        else:
            raise UserError(
                "queries of CLOUDSHead must be 'learned' or 'backbone', got "
                f'{self.queries!r}'
            )

    def forward(
        self, x: Sequence[Tensor], batch_data_samples: list | None = None
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Predict classes and masks for every query, after every layer.

        Args:
            x: Four maps (N, in_channels[i], h_i, w_i), finest first.
            batch_data_samples: Not used.

        Returns:
            Class logits (N, Q, K + 1), the last one "no object", and mask
            logits (N, Q, h_0, w_0): for the learned queries and after each
            decoder layer.
        """
        del batch_data_samples

        mask_features, features = self.pixel_decoder(x)
        cls_logits, mask_logits, _ = self._decode(
            features, mask_features, self._queries(x)
        )
        return cls_logits, mask_logits

    def predict_for_loss(
        self, x: Sequence[Tensor]
    ) -> tuple[list[Tensor], list[Tensor], list[Tensor], Tensor]:
        """Predict as :meth:`forward` does, with masks without gradient.

        Args:
            x: As for :meth:`forward`.

        Returns:
            Class logits; mask logits without gradient; and the factors of
            the masks: mask embeddings (N, Q, out_channels) and mask features
            (N, out_channels, h_0, w_0).
        """
        mask_features, features = self.pixel_decoder(x)
        outputs = self._decode(
            features, mask_features, self._queries(x), detach_masks=True
        )
        return *outputs, mask_features

    def _decode(
        self,
        features: list[Tensor],
        mask_features: Tensor,
        queries: tuple[Tensor, Tensor],
        *,
        detach_masks: bool = False,
    ) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        """Predict for the learned queries and after every decoder layer.

        Args:
            features: Multi-scale features (N, C, h_i, w_i), coarsest first.
            mask_features: (N, out_channels, h_0, w_0).
            queries: See :meth:`_queries`.
            detach_masks: Predict masks without gradient.

        Returns:
            Class logits, mask logits and mask embeddings of each output.
        """
        decoder, levels = self.transformer_decoder, self._levels(features)
        query, position = queries
        query = query.expand(mask_features.shape[0], -1, -1)
        cls_logits, mask_logits, mask_embeds = [], [], []
        for index in range(len(decoder.layers) + 1):
            normed = decoder.post_norm(query)
            embed = self.mask_embed(normed)
            if detach_masks:
                masks = predict_masks(embed.detach(), mask_features.detach())
            else:
                masks = predict_masks(embed, mask_features)
            cls_logits.append(self.cls_embed(normed, mask_features, masks))
            mask_logits.append(masks)
            mask_embeds.append(embed)
            if index < len(decoder.layers):
                level = levels[index % len(levels)]
                attn_mask = build_attn_mask(
                    _resize(masks.detach(), level.size)
                )
                query = self._attend(index, query, position, level, attn_mask)
        return cls_logits, mask_logits, mask_embeds

    def last_prediction(self, x: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Predict classes and masks for every query, after the last layer.

        The masks of earlier layers are needed for the attention mask of the
        next layer only. They are predicted at its size, from resized mask
        features: resizing and the product with the embeddings are linear, so
        their order does not matter.

        Args:
            x: As for :meth:`forward`.

        Returns:
            The last class and mask logits of :meth:`forward`, up to rounding.
        """
        mask_features, features = self.pixel_decoder(x)
        decoder, levels = self.transformer_decoder, self._levels(features)
        resized = [_resize(mask_features, level.size) for level in levels]
        query, position = self._queries(x)
        query = query.expand(mask_features.shape[0], -1, -1)
        for index in range(len(decoder.layers)):
            embed = self.mask_embed(decoder.post_norm(query))
            scale = index % len(levels)
            attn_mask = build_attn_mask(predict_masks(embed, resized[scale]))
            query = self._attend(
                index, query, position, levels[scale], attn_mask
            )
        query = decoder.post_norm(query)
        masks = predict_masks(self.mask_embed(query), mask_features)
        return self.cls_embed(query, mask_features, masks), masks

    def _levels(self, features):
        """Make keys and values of the features (N, C, h_i, w_i)."""
        levels = []
        for feature, embed in zip(
            features, self.level_embed.weight, strict=True
        ):
            value = feature.flatten(2).transpose(1, 2) + embed
            position = sine_encoding(
                *feature.shape[-2:], value.shape[-1], device=value.device
            )
            levels.append(Level(feature.shape[-2:], value + position, value))
        return levels

    def _queries(self, x: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Return initial features and positions of the queries.

        Returns:
            Two of (Q, C), or of (N, Q, C) if the backbone has queries of
            their own for each image.

        Raises:
            UserError: The backbone hands over none.
        """
        if self.queries == 'learned':
            return self.query_feat.weight, self.query_embed.weight
        position = getattr(x, 'queries', None)
        if position is None:
            raise UserError(
                "decode_head.queries='backbone', and the backbone hands over "
                "none: give it adapter=dict(type='Rein'), or the head "
                "queries='learned'"
            )
        return self.querys2feat(position), position

    def _attend(self, index, query, position, level, attn_mask):
        """Apply decoder layer ``index`` to queries (N, Q, C)."""
        return self.transformer_decoder.layers[index](
            query, position, level.key, level.value, attn_mask
        )


def _resize(maps, size):
    return F.interpolate(maps, size=size, mode='bilinear', align_corners=False)
