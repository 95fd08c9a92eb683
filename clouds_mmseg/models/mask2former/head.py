"""CLOUDSHead: the Mask2Former decode head in plain PyTorch."""

import torch
import torch.nn.functional as F
from mmengine.model import BaseModule
from mmseg.registry import MODELS
from torch import nn

from clouds_mmseg.models.mask2former.classifier import LinearClassifier
from clouds_mmseg.models.mask2former.criterion import MaskCriterion
from clouds_mmseg.models.mask2former.layers import mlp
from clouds_mmseg.models.mask2former.pixel_decoder import (
    NUM_LEVELS,
    PixelDecoder,
)
from clouds_mmseg.models.mask2former.positional import sine_encoding
from clouds_mmseg.models.mask2former.transformer_decoder import (
    MaskedDecoder,
    attendable,
)


@MODELS.register_module()
class CLOUDSHead(BaseModule):
    """Mask2Former's decode head."""

    def __init__(
        self,
        *,
        in_channels,
        num_classes,
        strides=(4, 8, 16, 32),
        feat_channels=256,
        out_channels=256,
        num_queries=100,
        num_heads=8,
        num_encoder_layers=6,
        encoder_ffn_channels=1024,
        num_decoder_layers=9,
        decoder_ffn_channels=2048,
        num_groups=32,
        num_points=4,
        classifier=None,
        loss=None,
        align_corners=False,
        ignore_index=255,
        init_cfg=None,
    ):
        super().__init__(init_cfg)
        self.num_classes = num_classes
        self.out_channels = num_classes
        self.align_corners = align_corners
        self.ignore_index = ignore_index
        self.strides = tuple(strides)
        self.pixel_decoder = PixelDecoder(
            in_channels=in_channels,
            feat_channels=feat_channels,
            out_channels=out_channels,
            num_heads=num_heads,
            num_layers=num_encoder_layers,
            ffn_channels=encoder_ffn_channels,
            num_groups=num_groups,
            num_points=num_points,
        )
        self.transformer_decoder = MaskedDecoder(
            channels=feat_channels,
            num_heads=num_heads,
            num_layers=num_decoder_layers,
            ffn_channels=decoder_ffn_channels,
        )
        self.query_embed = nn.Embedding(num_queries, feat_channels)
        self.query_feat = nn.Embedding(num_queries, feat_channels)
        self.level_embed = nn.Embedding(NUM_LEVELS, feat_channels)
        self.cls_embed = LinearClassifier(feat_channels, num_classes)
        self.mask_embed = mlp(feat_channels, feat_channels, out_channels)
        self.criterion = MaskCriterion(
            num_classes=num_classes, ignore_index=ignore_index, **(loss or {})
        )

    def forward(self, x, batch_data_samples=None):
        """Predict classes and masks for every query, after every layer.

        Args:
            x (Sequence[Tensor]): Four maps (N, in_channels[i], h_i, w_i),
                finest first.
            batch_data_samples (list, optional): Not used.

        Returns:
            tuple[list[Tensor], list[Tensor]]: Class logits (N, Q, K + 1),
            the last one "no object", and mask logits (N, Q, h_0, w_0): for
            the learned queries and after each decoder layer.
        """
        del batch_data_samples
        mask_features, maps = self.pixel_decoder(x)
        sizes = [m.shape[-2:] for m in maps]
        memories = [
            m.flatten(2).transpose(1, 2) + level
            for m, level in zip(maps, self.level_embed.weight, strict=True)
        ]
        positions = [
            sine_encoding(h, w, m.shape[-1], device=m.device)
            for (h, w), m in zip(sizes, memories, strict=True)
        ]

        def predict(query, level):
            size = None if level is None else sizes[level]
            return self._predict_masks(query, mask_features, size)

        query = self.query_feat.weight.expand(len(mask_features), -1, -1)
        outputs = self.transformer_decoder(
            query, self.query_embed.weight, memories, positions, predict
        )
        cls_logits, mask_logits = zip(*outputs, strict=True)
        return list(cls_logits), list(mask_logits)

    def _predict_masks(self, query, mask_features, size):
        mask_logits = torch.einsum(
            'nqc,nchw->nqhw', self.mask_embed(query), mask_features
        )
        cls_logits = self.cls_embed(query, mask_features, mask_logits)
        mask = None
        if size is not None:
            mask = attendable(
                F.interpolate(
                    mask_logits.detach(),
                    size=size,
                    mode='bilinear',
                    align_corners=False,
                )
            )
        return (cls_logits, mask_logits), mask

    def loss(self, x, batch_data_samples, train_cfg=None):
        """Compute losses."""
        labels = torch.stack(
            [s.gt_sem_seg.data.squeeze(0) for s in batch_data_samples]
        )
        return self.criterion(*self(x), labels.long())

    def predict(self, x, batch_img_metas, test_cfg=None):
        """Predict."""
        cls_logits, mask_logits = self(x)
        size = batch_img_metas[0]['img_shape'][:2]
        return semantic_logits(cls_logits[-1], mask_logits[-1], size)


def semantic_logits(cls_logits, mask_logits, size):
    """Sum up the masks of all queries, weighted by their classes.

    Args:
        cls_logits (Tensor): (N, Q, K + 1), the last one "no object".
        mask_logits (Tensor): (N, Q, h, w).
        size (tuple[int, int]): Height and width of the result.

    Returns:
        Tensor: (N, K, *size) float32, not negative.
    """
    with torch.autocast(mask_logits.device.type, enabled=False):
        masks = F.interpolate(
            mask_logits.float(),
            size=tuple(size),
            mode='bilinear',
            align_corners=False,
        ).sigmoid()
        classes = cls_logits.float().softmax(-1)[..., :-1]
        return torch.einsum('nqk,nqhw->nkhw', classes, masks)
