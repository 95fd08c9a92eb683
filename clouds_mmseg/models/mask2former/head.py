"""CLOUDSHead: the decode head of Mask2Former in plain PyTorch.

Checkpoints of MMSegmentation's ``Mask2FormerHead`` have the same keys.
"""

import math

import torch
import torch.nn.functional as F
from mmengine.model import BaseModule
from mmseg.registry import MODELS
from torch import nn

from clouds_mmseg.models.mask2former.arguments import (
    check_counts,
    check_threshold,
    check_widths,
    refuse_unknown,
)
from clouds_mmseg.models.mask2former.classifier import build_classifier
from clouds_mmseg.models.mask2former.criterion import MaskCriterion
from clouds_mmseg.models.mask2former.inference import (
    semantic_labels,
    semantic_scores,
)
from clouds_mmseg.models.mask2former.layers import mlp, sine_encoding
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
from clouds_mmseg.models.text_embeddings import find_text_source


def input_size(metas, feature_size, stride, *, slide=False):
    """Find height and width of the backbone's input.

    Of the sizes that the metainfo names the first is taken that fits the
    features. In slide mode the crop's is asked first, as a padded image may
    be less than a stride larger; in whole mode the padded one.

    Args:
        metas (list[dict]): Metainfo of each image.
        feature_size (tuple[int, int]): Of the finest map.
        stride (int): Of the finest map.
        slide (bool): Whether crops are being predicted.

    Returns:
        tuple[int, int]: Height and width in pixels.

    Raises:
        ValueError: If no size fits.
    """
    candidates = [_cropped(metas), *_padded(metas), _greatest(metas)]
    if not slide:
        candidates = candidates[1:]
    candidates = [size for size in candidates if size is not None]
    for size in candidates:
        if all(
            # Some backbones round a side up, some down.
            side // stride <= cells <= math.ceil(side / stride)
            for side, cells in zip(size, feature_size, strict=True)
        ):
            return size
    raise ValueError(
        f'features of size {tuple(feature_size)} at stride {stride} fit none '
        f'of the sizes in the metainfo, {candidates}: give the size of the '
        "network's input as img_shape, or the head's true strides"
    )


def _side_pair(shape):
    """Height and width of (H, W) or (H, W, C), or None."""
    return None if shape is None else (int(shape[0]), int(shape[1]))


def _cropped(metas):
    # slide_inference writes the crop's shape into the first only.
    return _side_pair(metas[0].get('img_shape'))


def _padded(metas):
    sizes = [_side_pair(meta.get('pad_shape')) for meta in metas]
    for meta in metas:
        size = _side_pair(meta.get('img_shape'))
        padding = meta.get('img_padding_size', meta.get('padding_size'))
        if size is not None and padding is not None:
            left, right, top, bottom = padding
            sizes.append((size[0] + top + bottom, size[1] + left + right))
    return sizes


def _greatest(metas):
    sizes = [_side_pair(meta.get('img_shape')) for meta in metas]
    sizes = [size for size in sizes if size is not None]
    if not sizes:
        return None
    return tuple(max(sides) for sides in zip(*sizes, strict=True))


def stack_labels(samples):
    """Collect the labels of a batch.

    Args:
        samples (list[SegDataSample]): With ``gt_sem_seg``, (1, H, W).

    Returns:
        Tensor: (B, H, W) int64.

    Raises:
        ValueError: A label is missing or of another size.
    """
    missing = [
        sample.metainfo.get('img_path', f'number {index} of the batch')
        for index, sample in enumerate(samples)
        if 'gt_sem_seg' not in sample
    ]
    if missing:
        raise ValueError(
            f'no gt_sem_seg in the training sample {missing[0]}: load the '
            'labels in the training pipeline'
        )
    labels = [sample.gt_sem_seg.data.squeeze(0) for sample in samples]
    sizes = {tuple(label.shape) for label in labels}
    if len(sizes) > 1:
        raise ValueError(
            f'labels of one batch must have one size, got {sorted(sizes)}: '
            'pad them in the data preprocessor'
        )
    return torch.stack(labels).long()


def stack_weights(samples):
    """Collect the weights of a batch's pixels.

    Args:
        samples (list[SegDataSample]): With ``gt_sem_seg`` and optionally
            ``gt_weight``, (1, H, W) float32.

    Returns:
        Tensor | None: (B, H, W) float32, 1 where a sample has no weights;
        None where no sample has.
    """
    if not any('gt_weight' in sample for sample in samples):
        return None
    return torch.cat(
        [
            sample.gt_weight.data
            if 'gt_weight' in sample
            else torch.ones_like(sample.gt_sem_seg.data, dtype=torch.float32)
            for sample in samples
        ]
    )


@MODELS.register_module()
class CLOUDSHead(BaseModule):
    """Mask2Former's decode head (arXiv 2112.01527) as CLOUDS trains it.

    With the linear classifier, names and shapes of the ``state_dict`` are
    those of MMSegmentation's ``Mask2FormerHead``, whose zoo checkpoints load
    as they are. No compiled operators are needed.

    Args:
        in_channels (Sequence[int]): Channels of the backbone's four maps.
        num_classes (int): K, without "no object".
        strides (Sequence[int]): Strides of the four maps.
        feat_channels (int): Channels of features and queries: a multiple of
            4, ``num_heads`` and ``num_groups``.
        out_channels (int): Channels of the map that masks are made of. The
            attribute of this name is K: that is what an
            ``EncoderDecoder`` asks for.
        num_queries (int): Q.
        num_heads (int): Heads of every attention.
        num_encoder_layers (int): Layers of the pixel decoder.
        encoder_ffn_channels (int): Hidden channels of their feed-forward.
        num_decoder_layers (int): Layers of the transformer decoder.
        decoder_ffn_channels (int): Hidden channels of their feed-forward.
        num_groups (int): Groups of the group normalisations.
        num_points (int): Sampling points of deformable attention per map.
        classifier (dict, optional): ``dict(type='linear')``, the default, or
            ``dict(type='text', text_embeddings=...)`` with the further
            arguments of :func:`load_text_embeddings`.
        loss (dict, optional): Options of :class:`MaskCriterion`; by default
            CLOUDS'.
        align_corners (bool): How the segmentor resizes the result.
        ignore_index (int): Label of pixels that belong to no class.
        threshold (float): With ``num_classes=1``: the class is predicted
            where its score is greater, elsewhere 255 ("nothing"). Not read
            otherwise.
        init_cfg (dict, optional): As for any ``BaseModule``.
        **unknown: None; what upstream heads call otherwise is an error that
            says how it is called here.

    Raises:
        ValueError: For an argument that breaks one of the rules above.
        UserError: For text embeddings that do not fit the classes.
    """

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
        threshold=0.5,
        init_cfg=None,
        **unknown,
    ):
        super().__init__(init_cfg)
        refuse_unknown('CLOUDSHead', unknown, CLOUDSHead.__init__)
        check_threshold(threshold)
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
        self.num_classes = num_classes
        self.out_channels = num_classes
        self.align_corners = align_corners
        self.ignore_index = ignore_index
        self.threshold = threshold
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
        self.cls_embed = build_classifier(
            classifier or dict(type='linear'),
            channels=feat_channels,
            mask_channels=out_channels,
            num_classes=num_classes,
        )
        self.mask_embed = mlp(feat_channels, feat_channels, out_channels)
        self.criterion = MaskCriterion(
            num_classes=num_classes, ignore_index=ignore_index, **(loss or {})
        )

    @staticmethod
    def find_weights(cfg):
        """Raise an error if the weights of a text classifier are not here.

        See :func:`~clouds_mmseg.weights.locate.missing_weights`.
        """
        source = (cfg.get('classifier') or {}).get('text_embeddings')
        find_text_source(source)

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
        cls_logits, mask_logits, _ = self._decode(maps, mask_features)
        return cls_logits, mask_logits

    def predict_for_loss(self, x):
        """Predict as :meth:`forward` does, with masks without gradient.

        Args:
            x (Sequence[Tensor]): As for :meth:`forward`.

        Returns:
            tuple[list[Tensor], list[Tensor], list[Tensor], Tensor]: Class
            logits; mask logits without gradient; mask embeddings (N, Q, C)
            and mask features (N, C, h_0, w_0), whose product they are.
        """
        mask_features, maps = self.pixel_decoder(x)
        outputs = self._decode(maps, mask_features, detach_masks=True)
        return *outputs, mask_features

    def _decode(self, maps, mask_features, *, detach_masks=False):
        """Predict for the learned queries and after every decoder layer.

        Args:
            maps (list[Tensor]): (N, C, h_i, w_i), coarsest first.
            mask_features (Tensor): (N, C, h_0, w_0).
            detach_masks (bool): Predict masks without gradient.

        Returns:
            tuple[list[Tensor], list[Tensor], list[Tensor]]: Class logits,
            mask logits and mask embeddings of each output.
        """
        decoder, levels = self.transformer_decoder, self._levels(maps)
        query = self.query_feat.weight.expand(len(mask_features), -1, -1)
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
                query = self._attend(index, query, level, attn_mask)
        return cls_logits, mask_logits, mask_embeds

    def last_prediction(self, x):
        """Predict classes and masks for every query, at the end alone.

        Before the end a mask is needed only where the next layer attends: it
        is predicted at that size, from mask features resized to it. Both are
        linear, so their order does not matter.

        Args:
            x (Sequence[Tensor]): As for :meth:`forward`.

        Returns:
            tuple[Tensor, Tensor]: What :meth:`forward` gives last, up to
            rounding.
        """
        mask_features, maps = self.pixel_decoder(x)
        decoder, levels = self.transformer_decoder, self._levels(maps)
        resized = [_resize(mask_features, level.size) for level in levels]
        query = self.query_feat.weight.expand(len(mask_features), -1, -1)
        for index in range(len(decoder.layers)):
            embed = self.mask_embed(decoder.post_norm(query))
            at = index % len(levels)
            attn_mask = build_attn_mask(predict_masks(embed, resized[at]))
            query = self._attend(index, query, levels[at], attn_mask)
        query = decoder.post_norm(query)
        masks = predict_masks(self.mask_embed(query), mask_features)
        return self.cls_embed(query, mask_features, masks), masks

    def _levels(self, maps):
        """Keys and values of the maps (N, C, h_i, w_i) for the decoder."""
        levels = []
        for features, embed in zip(maps, self.level_embed.weight, strict=True):
            value = features.flatten(2).transpose(1, 2) + embed
            position = sine_encoding(
                *features.shape[-2:], value.shape[-1], device=value.device
            )
            levels.append(Level(features.shape[-2:], value + position, value))
        return levels

    def _attend(self, index, query, level, attn_mask):
        """Map queries (N, Q, C) by decoder layer ``index``."""
        return self.transformer_decoder.layers[index](
            query, self.query_embed.weight, level.key, level.value, attn_mask
        )

    def loss(self, x, batch_data_samples, train_cfg=None):
        """Predict and compare with the labels.

        Args:
            x (Sequence[Tensor]): As for :meth:`forward`.
            batch_data_samples (list[SegDataSample]): With ``gt_sem_seg`` of
                one size, (1, H, W), ids in [0, K) or ``ignore_index``;
                optionally ``gt_weight``, (1, H, W) float32, how much each
                pixel counts in the mask losses (1 where it is not given).
            train_cfg (dict, optional): Not used.

        Returns:
            dict[str, Tensor]: As :class:`MaskCriterion` gives it.

        Raises:
            ValueError: If a label is missing, of another size, or holds an
                id that is no class.
        """
        del train_cfg
        outputs = self.predict_for_loss(x)
        cls_logits, mask_logits, mask_embeds, mask_features = outputs
        return self.criterion(
            cls_logits,
            mask_logits,
            stack_labels(batch_data_samples),
            stack_weights(batch_data_samples),
            mask_embeds=mask_embeds,
            mask_features=mask_features,
        )

    def predict(self, x, batch_img_metas, test_cfg=None):
        """Predict scores at the size of the network's input.

        Args:
            x (Sequence[Tensor]): As for :meth:`forward`.
            batch_img_metas (list[dict]): Metainfo of each image, from which
                the size of the input is found: see :func:`input_size`.
            test_cfg (dict, optional): Of the segmentor; ``mode`` is read.

        Returns:
            Tensor: (N, K, H, W) float32 scores, not negative.

        Raises:
            ValueError: If the metainfo does not fit the features.
        """
        size = self._input_size(x, batch_img_metas, test_cfg)
        return semantic_scores(*self.last_prediction(x), size)

    def predict_labels(self, x, batch_img_metas, test_cfg=None):
        """Predict the best class of each pixel, without holding all scores.

        Args:
            x (Sequence[Tensor]): As for :meth:`forward`.
            batch_img_metas (list[dict]): As for :meth:`predict`.
            test_cfg (dict, optional): As for :meth:`predict`.

        Returns:
            Tensor: (N, H, W) int64, the labels of what :meth:`predict`
            gives. Of one class: 0 where its score is above ``threshold``,
            255 elsewhere.
        """
        size = self._input_size(x, batch_img_metas, test_cfg)
        return semantic_labels(
            *self.last_prediction(x),
            size,
            threshold=self.threshold,
            images=[meta.get('img_path') for meta in batch_img_metas],
        )

    def _input_size(self, x, batch_img_metas, test_cfg):
        slide = (test_cfg or {}).get('mode', 'whole') == 'slide'
        return input_size(
            batch_img_metas, x[0].shape[-2:], self.strides[0], slide=slide
        )


def _resize(maps, size):
    return F.interpolate(maps, size=size, mode='bilinear', align_corners=False)
