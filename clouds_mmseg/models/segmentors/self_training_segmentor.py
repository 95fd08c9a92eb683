"""Segmentor that labels unlabelled samples with an EMA teacher.

Letters: N samples of a batch, M of them unlabelled, K classes, H and W of the
network's input.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.dist import all_gather_object, all_reduce
from mmengine.model import ExponentialMovingAverage
from mmengine.structures import PixelData
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample
from torch import Tensor, nn
from torch.func import functional_call

from clouds_mmseg.models.backbones.adapters import adapter_part
from clouds_mmseg.models.backbones.clip_tower import CLIPMaps
from clouds_mmseg.models.segmentors.dg_segmentor import DGSegmentor
from clouds_mmseg.models.segmentors.feature_cache import FeatureCache
from clouds_mmseg.models.segmentors.pseudo_labels import (
    PseudoLabelStatistics,
    as_scores,
    class_shares,
    expected_iou,
    flip_label,
    label_from_scores,
    refine_label,
    transport_shares,
    value_of_class,
)
from clouds_mmseg.models.segmentors.student_views import (
    class_frequencies,
    pad_map,
    region_means,
)
from clouds_mmseg.utils.cityscapes import IGNORE
from clouds_mmseg.utils.errors import UserError
from clouds_mmseg.utils.finite import NonFiniteError, listed
from clouds_mmseg.utils.options import near_names

_LABEL_WEIGHTS = ('confidence', 'image', 'region')
_LABEL_METHODS = ('argmax', 'transport')
# Input sides are multiples of it, as of the padding in the shipped configs.
_SIDE = 32
_MAX_SCALE = 4


@MODELS.register_module()
class SelfTrainingSegmentor(DGSegmentor):
    """CLOUDS' self-training (arXiv 2312.09788, section 3.3), and extensions.

    A training sample without ``gt_sem_seg`` has a second view without
    photometric augmentation, ``clean_img``. :meth:`loss` computes its
    pseudo label from it: backbone -> teacher -> argmax -> refiner. After that
    it is treated as any labelled sample.

    The teacher is the exponential moving average (EMA) of the trained parts:
    of the head if the backbone is frozen, of the head and the adapter if a
    frozen backbone has one, of both otherwise. It is a
    submodule, so it is saved and resumed;
    :class:`~clouds_mmseg.engine.EMATeacherHook` updates it.

    The defaults are the official code's. What the other settings do and what
    they gain is told in docs/self_training.md.

    Args:
        teacher_decay: Decay of the moving average, in (0, 1). The official
            value is 0.999.
        teacher_ramp_up: Let the t-th update have the decay
            ``min(1 - 1 / (t + 1), teacher_decay)``, so that the teacher
            follows the student closely at first (MIC, UniMatch V2).
        teacher_views: Views whose scores are averaged with those of the clean
            view: ``'flip'``, its mirror image, or a number, its scale (sides
            are rounded to multiples of 32).
        label_method: ``'argmax'`` of the teacher's scores, or
            ``'transport'``, of their balanced shares: see
            :func:`~.pseudo_labels.transport_shares`.
        transport: Arguments of that function.
        soft_labels: Train masks on the share of each class in a pixel instead
            of the label's regions. The label, refined or not, then only says
            which classes are shown.
        label_threshold: Pixels of a lower confidence are not labelled. The
            official code labels all.
        label_weight: How much pseudo labels count in the losses.
            ``'confidence'``: each pixel as much as the teacher's confidence,
            in the mask losses. ``'image'``: all losses of an image by the
            share of its pixels whose confidence is above ``image_threshold``
            (DACS, arXiv 2007.08702). ``'region'``: all losses of a region by
            its expected IoU: see :func:`~.pseudo_labels.expected_iou`. A
            number in [0, 1]: all losses by it. None, officially: as much as
            true labels.
        image_threshold: For ``label_weight='image'``; DACS' value.
        confidence_weight: The same as ``label_weight='confidence'``.
        label_dice: Whether pseudo labels count in the dice loss. SENSE
            (arXiv 2605.19289) leaves it out.
        mixing: Config of a :class:`~.student_views.ClassMix`, which pastes
            labelled content onto unlabelled images.
        student_views: Configs, or names, of what changes unlabelled images
            after mixing:
            :class:`~.student_views.ColorJitter`,
            :class:`~.student_views.BlockMask`.
        **kwargs: As for :class:`DGSegmentor`. A ``SegDataPreProcessor`` is
            replaced by a :class:`DGDataPreProcessor` of the same arguments.

    Raises:
        UserError: A value is out of range, or the head has one output for two
            classes.
    """

    # Keys that a checkpoint of source-only training lacks. Self-training may
    # start from it nevertheless: the teacher is then copied from the student.
    optional_in_checkpoint = ('teacher.',)

    def __init__(
        self,
        *,
        teacher_decay: float = 0.999,
        teacher_ramp_up: bool = False,
        teacher_views: Sequence[str | float] = (),
        label_method: str = 'argmax',
        transport: dict | None = None,
        soft_labels: bool = False,
        label_threshold: float | None = None,
        label_weight: str | float | None = None,
        image_threshold: float = 0.968,
        confidence_weight: bool = False,
        label_dice: bool = True,
        mixing: dict | None = None,
        student_views: Sequence[dict | str] = (),
        **kwargs: Any,
    ):
        kwargs['data_preprocessor'] = with_clean_views(
            kwargs.get('data_preprocessor')
        )
        super().__init__(**kwargs)
        if self.out_channels == 1 and self.num_classes > 1:
            raise UserError(
                'self-training needs a score of each class, but the head has '
                f'one output for {self.num_classes} classes; leave '
                'decode_head.out_channels out'
            )
        if not hasattr(self.data_preprocessor, 'clean_views'):
            raise UserError(
                'model.data_preprocessor of a SelfTrainingSegmentor must be a '
                'DGDataPreProcessor, which prepares the views of the '
                f'teacher, got {type(self.data_preprocessor).__name__}'
            )
        if not 0 < teacher_decay < 1:
            raise UserError(
                f'teacher_decay must lie in (0, 1), got {teacher_decay}'
            )
        if label_threshold is not None and not 0 <= label_threshold <= 1:
            raise UserError(
                'label_threshold must lie in [0, 1] or be None, got '
                f'{label_threshold}'
            )
        if confidence_weight and label_weight not in (None, 'confidence'):
            raise UserError(
                "confidence_weight=True is label_weight='confidence', but "
                f'label_weight={label_weight!r}; give one of them'
            )
        if confidence_weight:
            label_weight = 'confidence'
        _check_label_weight(label_weight)
        _check_transport(label_method, transport, self.num_classes)
        _check_views(teacher_views)
        self.teacher_decay = teacher_decay
        self.teacher_ramp_up = teacher_ramp_up
        self.teacher_views = tuple(teacher_views)
        self.transport = None
        if label_method == 'transport':
            self.transport = dict(transport or {})
        self.soft_labels = soft_labels
        self.label_threshold = label_threshold
        self.label_weight = label_weight
        self.image_threshold = image_threshold
        self.label_dice = label_dice
        self.mixing = None if mixing is None else MODELS.build(mixing)
        self.student_views = [
            MODELS.build(dict(type=view) if isinstance(view, str) else view)
            for view in student_views
        ]
        self.teacher = ExponentialMovingAverage(
            self.student(), momentum=1 - teacher_decay
        )
        if getattr(self.mixing, 'rare_temperature', None) is not None:
            # Pixels of each class in the labelled images so far.
            self.register_buffer(
                'class_pixels',
                torch.zeros(self.num_classes, dtype=torch.float64),
            )
        # Set by SAMRefineHook: called by refine_label, or None. Not an
        # nn.Module: SAM must not enter state_dict, DDP or the teacher.
        self.refiner = None
        # Set by FeatureCacheHook: a FeatureCache of a frozen tower, or None.
        self.feature_cache: FeatureCache | None = None
        # Set by PseudoLabelReportHook where a report is due: compute the
        # expected IoU, and the agreement with the mirror image's labels.
        self.measure_quality = False
        self.statistics = PseudoLabelStatistics(self.num_classes)

    def student(self) -> nn.ModuleDict:
        """Return the trained parts: the head, and the rest unless frozen.

        Of a backbone with an adapter these are the adapter's parameters
        alone, under their names in the backbone.
        """
        parts = {'decode_head': self.decode_head}
        if getattr(self.backbone, 'adapter', None) is not None:
            parts['backbone'] = adapter_part(self.backbone)
        elif any(p.requires_grad for p in self.backbone.parameters()):
            parts['backbone'] = self.backbone
            if self.with_neck:
                parts['neck'] = self.neck
        return nn.ModuleDict(parts)

    def update_teacher(self) -> None:
        """Update the EMA of the student; the first call copies the student."""
        if self.teacher_ramp_up:
            updates = int(self.teacher.steps)
            self.teacher.momentum = max(
                1 - self.teacher_decay, 1 / (updates + 1)
            )
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
            UserError: A sample has neither, or images are to be mixed and
                none is labelled.
            NonFiniteError: The teacher's scores are NaN or infinite; the
                message names the images.
        """
        unlabelled = [s for s in data_samples if 'gt_sem_seg' not in s]
        if not unlabelled:
            inputs = self._make_student_views(inputs, data_samples, [])
            return super().loss(inputs, data_samples)
        for sample in unlabelled:
            if 'clean_img' not in sample:
                raise UserError(
                    f'the training sample {sample.get("img_path")} has '
                    'neither a label nor a clean view: load its label '
                    '(LoadSegLabels, and data_prefix.seg_map_path), or put '
                    'KeepCleanView into its pipeline'
                )
        size = inputs.shape[-2:]
        clean = self.data_preprocessor.clean_views(unlabelled, size)
        if self.mixing is None and not self.student_views:
            features, clean_features = self._extract_features(inputs, clean)
            scores = self._teacher_scores(clean, unlabelled, clean_features)
            self._add_pseudo_labels(unlabelled, scores, size)
        else:
            # The student's views depend on the labels.
            scores = self._teacher_scores(clean, unlabelled)
            self._add_pseudo_labels(unlabelled, scores, size)
            inputs = self._make_student_views(inputs, data_samples, unlabelled)
            features = self.extract_feat(inputs)
        self._add_loss_weights(unlabelled)
        losses = self._decode_head_forward_train(features, data_samples)
        if self.with_auxiliary_head:
            losses.update(
                self._auxiliary_head_forward_train(features, data_samples)
            )
        return losses

    def clean_rgb(self, sample: SegDataSample) -> Tensor:
        """Return the clean view of a sample in the model's channel order.

        Args:
            sample: With ``clean_img``, (3, H, W) uint8.

        Returns:
            (3, H, W) uint8.
        """
        return self.data_preprocessor.clean_rgb(sample)

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
        height, width = data_samples[0].clean_img.data.shape[-2:]
        size = _padded((height, width))
        clean = self.data_preprocessor.clean_views(data_samples, size)
        shares = self._label_scores(self._teacher_scores(clean, data_samples))
        labels, confidences = self._read_labels(shares, data_samples)
        return labels[:, :height, :width], confidences[:, :height, :width]

    def _teacher_features(
        self,
        clean: Tensor,
        names: Sequence[str] | None = None,
        kind: str = 'clean',
    ) -> Sequence[Tensor]:
        """Extract the features of clean views for the teacher's head.

        Args:
            clean: (M, 3, H, W) float, normalised.
            names: Of the clean views, to read them from the cache.
            kind: How ``clean`` was made from the clean views.
        """
        if self.feature_cache is not None and names is not None:
            return self.feature_cache.features(
                clean, names, kind, self.extract_feat
            )
        parts = self.teacher.module
        if 'backbone' not in parts:
            return self.extract_feat(clean)
        if getattr(self.backbone, 'adapter', None) is not None:
            # The student's frozen tower, with the teacher's adapter.
            features = functional_call(
                self.backbone,
                dict(parts['backbone'].named_parameters()),
                (clean,),
            )
        else:
            features = parts['backbone'](clean)
        return parts['neck'](features) if self.with_neck else features

    def _extract_features(self, inputs, clean):
        """Extract the features of both views, in one call if frozen.

        Those of the clean views are None if they are in a cache.
        """
        if self.feature_cache is not None:
            return self.extract_feat(inputs), None
        if 'backbone' in self.teacher.module:
            features = self.extract_feat(inputs)
            with torch.no_grad():
                return features, self._teacher_features(clean)
        both = self.extract_feat(torch.cat([inputs, clean]))
        parts = slice(len(inputs)), slice(len(inputs), None)
        if isinstance(both, CLIPMaps):
            return tuple(both.of_images(part) for part in parts)
        return tuple([x[part] for x in both] for part in parts)

    @torch.no_grad()
    def _teacher_scores(
        self,
        clean: Tensor,
        samples: Sequence[SegDataSample],
        features: Sequence[Tensor] | None = None,
    ) -> Tensor:
        """Predict the teacher's scores, averaged over its views.

        Args:
            clean: (M, 3, H, W) float, normalised.
            samples: M samples, whose sizes before padding are read.
            features: Of ``clean``; extracted if not given.

        Returns:
            (M, K, H, W) float, not negative.
        """
        size = tuple(clean.shape[-2:])
        names = None
        if self.feature_cache is not None:
            names = self.feature_cache.names(samples)
        if features is None:
            features = self._teacher_features(clean, names)
        scores = self._predict_teacher(features, size)
        total = scores
        views = self.teacher_views
        if self.measure_quality and 'flip' not in views:
            views = (*views, 'flip')
        for view in views:
            # A view that is only measured is not worth its place on disk.
            kept = names if view in self.teacher_views else None
            changed = self._changed_view(clean, view)
            other = self._predict_teacher(
                self._teacher_features(changed, kept, str(view)),
                tuple(changed.shape[-2:]),
            )
            if view == 'flip':
                other = other.flip(-1)
                if self.measure_quality:
                    self._compare(scores, other, samples)
            else:
                other = _resize(other, size)
            if view in self.teacher_views:
                total = total + other
        return total / (1 + len(self.teacher_views))

    def _predict_teacher(self, features, size):
        """Predict the scores of one view, (M, K, H, W)."""
        # The metainfo gives the size of the padded input that the features
        # are of; that of the samples is the size before padding.
        meta = dict(img_shape=size, ori_shape=size, pad_shape=size)
        head = self.teacher.module['decode_head']
        outputs = head.predict(
            features, [meta] * len(features[0]), self.test_cfg
        )
        return as_scores(head, outputs)

    def _changed_view(self, clean, view):
        """Mirror or scale clean views, as an entry of ``teacher_views``."""
        if view == 'flip':
            return clean.flip(-1)
        scaled = tuple(
            max(1, int(side * view / _SIDE + 0.5)) * _SIDE
            for side in clean.shape[-2:]
        )
        return _resize(clean, scaled)

    def cached_bytes(self, sample: SegDataSample) -> int:
        """Return how many bytes the cache takes for all views of an image.

        Args:
            sample: With ``clean_img``, (3, H, W) uint8.
        """
        clean = self.data_preprocessor.clean_views(
            [sample], _padded(sample.clean_img.data.shape[-2:])
        )
        changed = [self._changed_view(clean, v) for v in self.teacher_views]
        cache = self.feature_cache
        assert cache is not None
        return sum(
            cache.nbytes(view, self.extract_feat) for view in (clean, *changed)
        )

    def _compare(self, scores, other, samples):
        """Count the pixels whose label is the same in two views."""
        for first, second, sample in zip(scores, other, samples, strict=True):
            height, width = sample.clean_img.data.shape[-2:]
            self.statistics.update_views(
                *(
                    label_from_scores(x[None, :, :height, :width])[0][0]
                    for x in (first, second)
                )
            )

    def _label_scores(self, scores):
        """Return the scores that labels are read from, (M, K, H, W)."""
        if self.transport is None:
            return scores
        return transport_shares(scores, **self.transport)

    def _read_labels(self, scores, samples):
        """Read labels and confidences of finite scores, both (M, H, W)."""
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

    @torch.no_grad()
    def _add_pseudo_labels(self, samples, scores, size):
        """Add the refined pseudo label of its clean view to each sample.

        The label is predicted for the view before the flip, then flipped as
        the student's view was: the cache of a refiner then holds one image,
        not two.

        Args:
            samples: M samples.
            scores: (M, K, H, W) float, the teacher's.
            size: H and W.
        """
        scores = self._label_scores(scores)
        labels, confidences = self._read_labels(scores, samples)
        for sample, score, label, confidence in zip(
            samples, scores, labels, confidences, strict=True
        ):
            height, width = sample.clean_img.data.shape[-2:]
            score = score[:, :height, :width]
            confidence = confidence[:height, :width]
            before = after = label[:height, :width]
            if self.refiner is not None:
                after = refine_label(
                    self.refiner, self.clean_rgb(sample), before, confidence
                ).to(before.device)
            iou = None
            if self.label_weight == 'region' or self.measure_quality:
                iou = expected_iou(score, after)
            self.statistics.update(before, after, confidence, iou)
            direction = (
                sample.get('flip_direction') if sample.get('flip') else None
            )

            def as_student(maps, value, direction=direction):
                """Flip and pad a map as the student's view was."""
                flipped = flip_label(maps, direction)
                return PixelData(data=pad_map(flipped, size, value))

            sample.gt_sem_seg = as_student(after[None], IGNORE)
            weight = self._pixel_weight(after, confidence, iou)
            if weight is not None:
                sample.gt_weight = as_student(weight[None], 0)
            if self.soft_labels:
                soft = class_shares(score).masked_fill(after == IGNORE, 0)
                sample.gt_soft_label = as_student(soft, 0)

    def _pixel_weight(self, label, confidence, iou):
        """Return how much each pixel counts, (H, W), or None."""
        if self.label_weight is None:
            return None
        if self.label_weight == 'confidence':
            return confidence
        if self.label_weight == 'region':
            return value_of_class(iou, label)
        if self.label_weight == 'image':
            share = (confidence > self.image_threshold).float().mean()
            return share.expand_as(confidence)
        return torch.full_like(confidence, self.label_weight)

    @torch.no_grad()
    def _make_student_views(self, inputs, samples, unlabelled):
        """Mix and change the unlabelled images, (N, 3, H, W)."""
        if self.mixing is None and not self.student_views:
            return inputs
        pseudo = {id(sample) for sample in unlabelled}
        domains = () if self.mixing is None else self.mixing.domains
        index = [
            i
            for i, sample in enumerate(samples)
            if id(sample) in pseudo or sample.get('domain') in domains
        ]
        # All processes draw for the whole batch, or none does.
        if not any(all_gather_object(bool(index))):
            return inputs
        if self.mixing is not None:
            frequency = None
            if hasattr(self, 'class_pixels'):
                frequency = self._class_frequency(samples, pseudo)
            inputs = self.mixing(inputs, samples, index, frequency)
        for view in self.student_views:
            inputs = view(inputs, index, self.data_preprocessor)
        return inputs

    def _class_frequency(self, samples, pseudo):
        """Count the labelled pixels of a batch; return shares so far, (K,)."""
        labels = [s.gt_sem_seg.data for s in samples if id(s) not in pseudo]
        if labels:
            pixels = class_frequencies(labels, self.num_classes)
        else:
            pixels = torch.zeros_like(self.class_pixels)
        # The same counts in all processes, of which one is saved.
        all_reduce(pixels)
        self.class_pixels += pixels
        return self.class_pixels / self.class_pixels.sum().clamp(min=1)

    def _add_loss_weights(self, samples):
        """Add the weights of regions and dice losses to unlabelled samples."""
        for sample in samples:
            label = sample.gt_sem_seg.data[0]
            if self.label_weight not in (None, 'confidence'):
                # After mixing: a class may have pasted and original pixels.
                sample.set_field(
                    region_means(
                        sample.gt_weight.data[0], label, self.num_classes
                    ),
                    'gt_region_weight',
                )
            if not self.label_dice:
                sample.set_field(
                    torch.zeros((), device=label.device), 'gt_dice_weight'
                )


def with_clean_views(preprocessor: Any) -> Any:
    """Take our preprocessor in place of MMSegmentation's."""
    if isinstance(preprocessor, dict) and (
        preprocessor.get('type') in (None, 'SegDataPreProcessor')
    ):
        return dict(preprocessor, type='DGDataPreProcessor')
    return preprocessor


def _check_label_weight(value):
    is_share = (
        isinstance(value, (int, float))
        and not isinstance(value, bool)
        and 0 <= value <= 1
    )
    if value is None or value in _LABEL_WEIGHTS or is_share:
        return
    raise UserError(
        'label_weight must be None, a number in [0, 1], or a name, got '
        f'{value!r}' + near_names([str(value)], _LABEL_WEIGHTS)
    )


def _check_transport(method, options, num_classes):
    if method not in _LABEL_METHODS:
        raise UserError(
            f'label_method={method!r} does not exist'
            + near_names([str(method)], _LABEL_METHODS)
        )
    if method == 'argmax':
        if options:
            raise UserError(
                f'transport={dict(options)} is used with '
                "label_method='transport' only"
            )
        return
    if num_classes == 1:
        raise UserError(
            "label_method='transport' balances classes; the model has one"
        )
    options = dict(options or {})
    unknown = set(options) - {'marginals', 'epsilon', 'iterations'}
    if unknown:
        raise UserError(
            f'transport takes marginals, epsilon and iterations, got '
            f'{sorted(unknown)}'
        )
    marginals = options.get('marginals', 'uniform')
    if marginals not in ('uniform', 'scores'):
        raise UserError(
            "transport.marginals must be 'uniform' or 'scores', got "
            f'{marginals!r}'
        )
    if not options.get('epsilon', 1) > 0 or options.get('iterations', 1) < 1:
        raise UserError(
            f'transport needs epsilon > 0 and iterations >= 1, got {options}'
        )


def _check_views(views):
    for view in views:
        is_scale = (
            isinstance(view, (int, float))
            and not isinstance(view, bool)
            and 1 / _MAX_SCALE <= view <= _MAX_SCALE
        )
        if view != 'flip' and not is_scale:
            raise UserError(
                "teacher_views holds 'flip' or scales in "
                f'[{1 / _MAX_SCALE}, {_MAX_SCALE}], got {view!r}'
            )


def _padded(size):
    """Round the sides of an image up to what networks take."""
    return tuple(side + -side % _SIDE for side in size)


def _resize(maps, size):
    return F.interpolate(
        maps, size=tuple(size), mode='bilinear', align_corners=False
    )
