"""Segmentor that labels unlabelled samples with an EMA teacher.

Letters: N samples of a batch, M of them unlabelled, K classes, H and W of the
network's input.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.model import ExponentialMovingAverage
from mmengine.structures import PixelData
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample
from torch import Tensor, nn

from clouds_mmseg.models.segmentors.dg_segmentor import DGSegmentor
from clouds_mmseg.models.segmentors.pseudo_labels import (
    PseudoLabelStatistics,
    flip_label,
    label_from_scores,
)
from clouds_mmseg.utils.cityscapes import IGNORE
from clouds_mmseg.utils.errors import UserError
from clouds_mmseg.utils.finite import NonFiniteError, listed


@MODELS.register_module()
class SelfTrainingSegmentor(DGSegmentor):
    """CLOUDS' self-training (arXiv 2312.09788, section 3.3).

    A training sample without ``gt_sem_seg`` has a second view without
    photometric augmentation, ``clean_img``. :meth:`loss` computes its
    pseudo label from it: backbone -> teacher -> argmax -> refiner. After that
    it is treated as any labelled sample.

    The teacher is the exponential moving average (EMA) of the trained parts:
    of the head if the backbone is frozen, of both otherwise. It is a
    submodule, so it is saved and resumed;
    :class:`~clouds_mmseg.engine.EMATeacherHook` updates it.

    Args:
        teacher_decay: Decay of the moving average, in (0, 1). The official
            value is 0.999.
        label_threshold: Pixels of a lower confidence are not labelled. The
            official code labels all.
        confidence_weight: Weight each pixel of a pseudo label by the
            teacher's confidence in the mask losses. The official code does
            not.
        **kwargs: As for :class:`DGSegmentor`.

    Raises:
        ValueError: ``teacher_decay`` or ``label_threshold`` out of range.
        UserError: The head has one output for two classes.
    """

    # Keys that a checkpoint of source-only training lacks. Self-training may
    # start from it nevertheless: the teacher is then copied from the student.
    optional_in_checkpoint = ('teacher.',)

    def __init__(
        self,
        *,
        teacher_decay: float = 0.999,
        label_threshold: float | None = None,
        confidence_weight: bool = False,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        if self.out_channels == 1 and self.num_classes > 1:
            raise UserError(
                'self-training needs a score of each class, but the head has '
                f'one output for {self.num_classes} classes; leave '
                'decode_head.out_channels out'
            )
        if not 0 < teacher_decay < 1:
            raise ValueError(
                f'teacher_decay must lie in (0, 1), got {teacher_decay}'
            )
        if label_threshold is not None and not 0 <= label_threshold <= 1:
            raise ValueError(
                'label_threshold must lie in [0, 1] or be None, got '
                f'{label_threshold}'
            )
        self.label_threshold = label_threshold
        self.confidence_weight = confidence_weight
        self.teacher = ExponentialMovingAverage(
            self.student(), momentum=1 - teacher_decay
        )
        # Set by SAMRefineHook: `(image, label) -> label`, or None. Not an
        # nn.Module: SAM must not enter state_dict, DDP or the teacher.
        self.refiner = None
        self.statistics = PseudoLabelStatistics(self.num_classes)

    def student(self) -> nn.ModuleDict:
        """Return the trained parts: the head, and the rest unless frozen."""
        parts = {'decode_head': self.decode_head}
        if any(p.requires_grad for p in self.backbone.parameters()):
            parts['backbone'] = self.backbone
            if self.with_neck:
                parts['neck'] = self.neck
        return nn.ModuleDict(parts)

    def update_teacher(self) -> None:
        """Update the EMA of the student; the first call copies the student."""
        self.teacher.update_parameters(self.student())

    def train(self, mode: bool = True) -> 'SelfTrainingSegmentor':
        """Set the mode of the student; the teacher stays in eval mode."""
        super().train(mode)
        self.teacher.eval()
        return self

    def loss(
        self, inputs: Tensor, data_samples: list[SegDataSample]
    ) -> dict[str, Tensor]:
        """Label the unlabelled samples, then compute the ordinary losses.

        Args:
            inputs: (N, 3, H, W) float, normalised: the student's views.
            data_samples: N samples with either ``gt_sem_seg`` or
                ``clean_img``, (3, H', W') uint8 in the channel order of the
                loaded image, H' <= H, W' <= W.

        Returns:
            The losses by name.

        Raises:
            UserError: A sample has neither.
            NonFiniteError: The teacher's scores are NaN or infinite; the
                message names the images.
        """
        unlabelled = [s for s in data_samples if 'gt_sem_seg' not in s]
        if not unlabelled:
            return super().loss(inputs, data_samples)
        for sample in unlabelled:
            if 'clean_img' not in sample:
                raise UserError(
                    f'the training sample {sample.get("img_path")} has '
                    'neither a label nor a clean view: load its label '
                    '(LoadSegLabels, and data_prefix.seg_map_path), or put '
                    'KeepCleanView into its pipeline'
                )
        clean = self._clean_views(unlabelled, inputs.shape[-2:])
        features, clean_features = self._extract_features(inputs, clean)
        self._add_pseudo_labels(unlabelled, clean_features, inputs.shape[-2:])
        losses = self._decode_head_forward_train(features, data_samples)
        if self.with_auxiliary_head:
            losses.update(
                self._auxiliary_head_forward_train(features, data_samples)
            )
        return losses

    def _clean_views(
        self, samples: list[SegDataSample], size: Sequence[int]
    ) -> Tensor:
        """Normalise and pad clean views as the preprocessor does inputs.

        Returns:
            (M, 3, H, W) float.
        """
        preprocessor = self.data_preprocessor
        height, width = size
        views = []
        for sample in samples:
            view = self.clean_rgb(sample).float()
            if preprocessor._enable_normalize:
                view = (view - preprocessor.mean) / preprocessor.std
            padding = (0, width - view.shape[-1], 0, height - view.shape[-2])
            views.append(F.pad(view, padding, value=preprocessor.pad_val))
        return torch.stack(views)

    def clean_rgb(self, sample: SegDataSample) -> Tensor:
        """Return the clean view of a sample in the model's channel order.

        Args:
            sample: With ``clean_img``, (3, H, W) uint8.

        Returns:
            (3, H, W) uint8.
        """
        view = sample.clean_img.data
        if self.data_preprocessor._channel_conversion:
            view = view.flip(0)
        return view

    @torch.no_grad()
    def pseudo_labels(
        self, data_samples: list[SegDataSample]
    ) -> tuple[Tensor, Tensor]:
        """Label clean views as in training, without changing the samples.

        Args:
            data_samples: M samples with ``clean_img``, as for :meth:`loss`,
                of one size (3, H, W). Height and width are padded to
                multiples of 32.

        Returns:
            Labels (M, H, W) int64 before refinement, and the teacher's
            confidences (M, H, W) float32 in [0, 1].

        Raises:
            NonFiniteError: The teacher's scores are NaN or infinite; the
                message names the images.
        """
        shape = data_samples[0].clean_img.data.shape[-2:]
        height, width = shape
        size = (height + -height % 32, width + -width % 32)
        clean = self._clean_views(data_samples, size)
        labels, confidences = self._predict_pseudo_labels(
            self._teacher_features(clean), size, data_samples
        )
        return labels[:, :height, :width], confidences[:, :height, :width]

    def _teacher_features(self, clean: Tensor) -> Sequence[Tensor]:
        """Extract the features of clean views for the teacher's head."""
        parts = self.teacher.module
        if 'backbone' not in parts:
            return self.extract_feat(clean)
        features = parts['backbone'](clean)
        return parts['neck'](features) if self.with_neck else features

    def _extract_features(self, inputs, clean):
        """Extract the features of both views, in one call if frozen."""
        if 'backbone' in self.teacher.module:
            features = self.extract_feat(inputs)
            with torch.no_grad():
                return features, self._teacher_features(clean)
        both = self.extract_feat(torch.cat([inputs, clean]))
        n = len(inputs)
        return [x[:n] for x in both], [x[n:] for x in both]

    @torch.no_grad()
    def _predict_pseudo_labels(self, clean_features, size, samples):
        """Predict the teacher's labels and confidences, both (M, H, W)."""
        # The metainfo gives the size of the padded input that the features
        # are of; that of the samples is the size before padding.
        metas = [
            dict(
                img_shape=tuple(size),
                ori_shape=tuple(size),
                pad_shape=tuple(size),
            )
            for _ in clean_features[0]
        ]
        scores = self.teacher.module['decode_head'].predict(
            clean_features, metas, self.test_cfg
        )
        label, confidence = label_from_scores(
            scores,
            self.label_threshold,
            class_threshold=getattr(self.decode_head, 'threshold', None),
        )
        # The confidence is finite exactly where all scores are.
        finite = confidence.isfinite().flatten(1).all(dim=1).tolist()
        if not all(finite):
            paths = [
                str(sample.get('img_path', 'an image without path'))
                for sample, is_finite in zip(samples, finite, strict=True)
                if not is_finite
            ]
            raise NonFiniteError(
                "the teacher's scores are not finite (NaN or infinite) for "
                f'{listed(paths)}: no pseudo label can be read from them. '
                'Look at these images; in mixed precision (--amp) try '
                'without'
            )
        return label, confidence

    def _add_pseudo_labels(self, samples, clean_features, size):
        """Add the refined pseudo label of its clean view to each sample.

        The label is predicted for the view before the flip, then flipped as
        the student's view was: the cache of a refiner then holds one image,
        not two.
        """
        labels, confidences = self._predict_pseudo_labels(
            clean_features, size, samples
        )
        for sample, label, confidence in zip(
            samples, labels, confidences, strict=True
        ):
            height, width = sample.clean_img.data.shape[-2:]
            confidence = confidence[:height, :width]
            before = after = label[:height, :width]
            if self.refiner is not None:
                after = self.refiner(self.clean_rgb(sample), before)
                after = after.to(before.device)
            self.statistics.update(before, after, confidence)
            direction = (
                sample.get('flip_direction') if sample.get('flip') else None
            )
            padding = (0, size[1] - width, 0, size[0] - height)
            sample.gt_sem_seg = PixelData(
                data=F.pad(
                    flip_label(after, direction), padding, value=IGNORE
                )[None]
            )
            if self.confidence_weight:
                sample.gt_weight = PixelData(
                    data=F.pad(flip_label(confidence, direction), padding)[
                        None
                    ]
                )
