"""What mask heads share: losses, and inference from classes and masks.

Letters: N images, K classes, Q queries, C channels, H and W of the
network's input, h and w of the predicted masks.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from mmengine.model import BaseModule
from mmseg.structures import SegDataSample
from torch import Tensor, nn

from clouds_mmseg.models.mask2former.arguments import check_threshold
from clouds_mmseg.models.mask2former.criterion import (
    LossWeights,
    MaskCriterion,
)
from clouds_mmseg.models.mask2former.inference import (
    semantic_labels,
    semantic_scores,
)
from clouds_mmseg.models.text_embeddings import find_text_source
from clouds_mmseg.utils.errors import UserError


class MaskHead(BaseModule):
    """A decode head that predicts a class and a mask for each of Q queries.

    A subclass implements :meth:`predict_for_loss` and
    :meth:`last_prediction`. Losses, semantic inference, weights of
    pseudo-labels and export are those of all.

    Args:
        num_classes: K, without "no object".
        strides: Of the maps that the head is given, finest first.
        mask_stride: Of the masks that it predicts; by default that of the
            finest map.
        loss: Options of :class:`MaskCriterion`.
        align_corners: How the segmentor resizes the result.
        ignore_index: Label of pixels that belong to no class.
        threshold: With ``num_classes=1``: the class is predicted where its
            score is greater, elsewhere 255 ("nothing").
        init_cfg: mmengine's initialisation.

    Attributes:
        takes (str): Which output of a backbone the head takes:
            ``'pyramid'``, four maps of strides 4 to 32, or ``'tokens'`` of a
            ViT.
        resizes_scores (bool): Whether scores are made at the size of the
            masks and resized to that of the result, not made at it.
    """

    takes = 'pyramid'
    resizes_scores = False
    # Submodules that all heads have.
    cls_embed: nn.Module
    mask_embed: nn.Module

    def __init__(
        self,
        *,
        num_classes: int,
        strides: Sequence[int],
        mask_stride: int | None = None,
        loss: dict | None = None,
        align_corners: bool = False,
        ignore_index: int = 255,
        threshold: float = 0.5,
        init_cfg: dict | None = None,
    ):
        super().__init__(init_cfg)
        check_threshold(threshold)
        self.num_classes = num_classes
        # What EncoderDecoder reads for K.
        self.out_channels = num_classes
        self.align_corners = align_corners
        self.ignore_index = ignore_index
        self.threshold = threshold
        self.strides = tuple(strides)
        self.mask_stride = mask_stride or self.strides[0]
        self.criterion = MaskCriterion(
            num_classes=num_classes, ignore_index=ignore_index, **(loss or {})
        )

    @classmethod
    def fit_to(cls, backbone: nn.Module, cfg: dict) -> dict:
        """Fill in what the config of the head leaves to the backbone.

        Args:
            backbone: The backbone that the head is to follow.
            cfg: Config of the head. Not changed.

        Raises:
            UserError: They do not fit.
        """
        del backbone
        return cfg

    @staticmethod
    def find_weights(cfg: dict) -> None:
        """Raise an error if text embeddings of a config are missing.

        See :func:`~clouds_mmseg.weights.locate.missing_weights`.
        """
        source = (cfg.get('classifier') or {}).get('text_embeddings')
        find_text_source(source)

    def predict_for_loss(
        self, x: Sequence[Tensor]
    ) -> tuple[list[Tensor], list[Tensor], list[Tensor], Any]:
        """Predict after every layer, with masks without gradient.

        Args:
            x: What the backbone returns.

        Returns:
            Class logits (N, Q, K + 1) and mask logits (N, Q, h, w) of each
            output; and the factors of the masks: mask embeddings (N, Q, C) of
            each output, and mask features (N, C, h, w), those of all or one
            of each output.
        """
        raise NotImplementedError

    def last_prediction(self, x: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Predict class and mask logits after the last layer.

        Args:
            x: What the backbone returns.

        Returns:
            (N, Q, K + 1), the last one "no object", and (N, Q, h, w).
        """
        raise NotImplementedError

    def loss(
        self,
        x: Sequence[Tensor],
        batch_data_samples: list[SegDataSample],
        train_cfg: dict | None = None,
    ) -> dict[str, Tensor]:
        """Predict and compare with the labels.

        Args:
            x: What the backbone returns.
            batch_data_samples: With ``gt_sem_seg`` of one size, (1, H, W),
                ids in [0, K) or ``ignore_index``; optionally what
                :func:`stack_weights` and :func:`stack_soft_labels` read.
            train_cfg: Not used.

        Returns:
            The losses by name, see :meth:`MaskCriterion.__call__`.

        Raises:
            UserError: If a label is missing, of another size, or has an id
                that is not a class.
        """
        del train_cfg
        outputs = self.predict_for_loss(x)
        cls_logits, mask_logits, mask_embeds, mask_features = outputs
        return self.criterion(
            cls_logits,
            mask_logits,
            stack_labels(batch_data_samples),
            stack_weights(batch_data_samples),
            soft_labels=stack_soft_labels(
                batch_data_samples, self.num_classes
            ),
            mask_embeds=mask_embeds,
            mask_features=mask_features,
        )

    def predict(
        self,
        x: Sequence[Tensor],
        batch_img_metas: list[dict],
        test_cfg: dict | None = None,
    ) -> Tensor:
        """Predict scores at the size of the network's input.

        Args:
            x: What the backbone returns.
            batch_img_metas: Metainfo of each image, from which the size of
                the input is found: see :func:`input_size`.
            test_cfg: Of the segmentor; ``mode`` is read.

        Returns:
            (N, K, H, W) float32 scores, not negative.

        Raises:
            UserError: If the metainfo does not fit the features.
        """
        return semantic_scores(
            *self._prediction_and_size(x, batch_img_metas, test_cfg)
        )

    def predict_labels(
        self,
        x: Sequence[Tensor],
        batch_img_metas: list[dict],
        test_cfg: dict | None = None,
    ) -> Tensor:
        """Predict the best class of each pixel, without holding all scores.

        Args:
            x: What the backbone returns.
            batch_img_metas: As for :meth:`predict`.
            test_cfg: As for :meth:`predict`.

        Returns:
            (N, H, W) int64, the classes with the best scores of
            :meth:`predict`. If K is 1: 0 where the score is above
            ``threshold``, 255 elsewhere.
        """
        return semantic_labels(
            *self._prediction_and_size(x, batch_img_metas, test_cfg),
            threshold=self.threshold,
            images=[meta.get('img_path') for meta in batch_img_metas],
        )

    def _prediction_and_size(self, x, batch_img_metas, test_cfg):
        """Return class and mask logits, and the size of the input."""
        slide = (test_cfg or {}).get('mode', 'whole') == 'slide'
        # First: it is cheap, and refuses metainfo that does not fit.
        size = input_size(
            batch_img_metas, x[0].shape[-2:], self.strides[0], slide=slide
        )
        return *self.last_prediction(x), size


def input_size(
    metas: list[dict],
    feature_size: tuple[int, int],
    stride: int,
    *,
    slide: bool = False,
) -> tuple[int, int]:
    """Find height and width of the backbone's input.

    The result is the first size in the metainfo that fits the features. In
    slide mode the crop's size is tried first, as that of a padded image may
    be less than a stride larger; in whole mode the padded size.

    Args:
        metas: Metainfo of each image.
        feature_size: Height and width of the finest map.
        stride: Of the finest map.
        slide: Whether crops are predicted.

    Returns:
        Height and width in pixels.

    Raises:
        UserError: If no size fits.
    """
    candidates = [_cropped(metas), *_padded(metas), _greatest(metas)]
    if not slide:
        candidates = candidates[1:]
    candidates = [size for size in candidates if size is not None]
    for size in candidates:
        if all(
            # Some backbones round a side up, some down.
            side // stride <= length <= math.ceil(side / stride)
            for side, length in zip(size, feature_size, strict=True)
        ):
            return size
    raise UserError(
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


def stack_labels(samples: list[SegDataSample]) -> Tensor:
    """Stack the label maps of a batch.

    Args:
        samples: With ``gt_sem_seg``, (1, H, W).

    Returns:
        (N, H, W) int64.

    Raises:
        UserError: A label is missing or of another size.
    """
    missing = [
        sample.metainfo.get('img_path', f'number {index} of the batch')
        for index, sample in enumerate(samples)
        if 'gt_sem_seg' not in sample
    ]
    if missing:
        raise UserError(
            f'no gt_sem_seg in the training sample {missing[0]}: load the '
            'labels in the training pipeline'
        )
    labels = [sample.gt_sem_seg.data.squeeze(0) for sample in samples]
    sizes = {tuple(label.shape) for label in labels}
    if len(sizes) > 1:
        raise UserError(
            f'labels of one batch must have one size, got {sorted(sizes)}: '
            'pad them in the data preprocessor'
        )
    return torch.stack(labels).long()


def stack_weights(samples: list[SegDataSample]) -> LossWeights | None:
    """Stack the weights of a batch; what a sample does not have is 1.

    Args:
        samples: With ``gt_sem_seg`` and optionally ``gt_weight``, a PixelData
            of (1, H, W) float32; ``gt_region_weight``, (K,) float32;
            ``gt_dice_weight``, () float32.

    Returns:
        See :class:`LossWeights`; None if no sample has any.
    """
    pixels = regions = dice = None
    if any('gt_weight' in sample for sample in samples):
        pixels = torch.cat(
            [
                sample.gt_weight.data
                if 'gt_weight' in sample
                else torch.ones_like(
                    sample.gt_sem_seg.data, dtype=torch.float32
                )
                for sample in samples
            ]
        )
    regions = _stack_optional(samples, 'gt_region_weight')
    dice = _stack_optional(samples, 'gt_dice_weight')
    weights = LossWeights(pixels, regions, dice)
    return None if all(x is None for x in weights) else weights


def _stack_optional(samples, name):
    """Stack a field that samples may lack (then 1); None if all lack it."""
    found = [sample.get(name) for sample in samples]
    example = next((value for value in found if value is not None), None)
    if example is None:
        return None
    return torch.stack(
        [torch.ones_like(example) if x is None else x for x in found]
    )


def stack_soft_labels(
    samples: list[SegDataSample], num_classes: int
) -> Tensor | None:
    """Stack the soft labels of a batch; those of others are one-hot.

    Args:
        samples: With ``gt_sem_seg``, (1, H, W), and optionally
            ``gt_soft_label``, a PixelData of (K, H, W) float in [0, 1].
        num_classes: K.

    Returns:
        (N, K, H, W) float; None if no sample has a soft label.
    """
    if not any('gt_soft_label' in sample for sample in samples):
        return None
    classes = torch.arange(
        num_classes, device=samples[0].gt_sem_seg.data.device
    )
    return torch.stack(
        [
            sample.gt_soft_label.data
            if 'gt_soft_label' in sample
            else (sample.gt_sem_seg.data == classes[:, None, None]).float()
            for sample in samples
        ]
    )
