"""Pseudo labels from the scores of a teacher, and their statistics."""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from torch import Tensor, nn

from clouds_mmseg.utils.cityscapes import IGNORE


def label_from_scores(
    scores: Tensor,
    threshold: float | None = None,
    *,
    class_threshold: float = 0.5,
) -> tuple[Tensor, Tensor]:
    """Label each pixel with its best class.

    CLOUDS uses the argmax without a threshold (section 3.3 and the official
    code); here a threshold is an option.

    Args:
        scores: (N, K, H, W) float, not negative: class scores as ``predict``
            of the head returns them.
        threshold: In [0, 1]. Pixels of a lower confidence are labelled 255.
        class_threshold: Used if K is 1: pixels with a greater score have the
            class, all others are labelled 255.

    Returns:
        Labels (N, H, W) int64, and confidences (N, H, W) float32 in [0, 1]:
        the best score divided by the sum over classes. The scores of
        Mask2Former do not sum to one, so only this ratio can be compared
        between pixels. Where a score is NaN or infinite the confidence is
        NaN, and the label is arbitrary.
    """
    scores = scores.float()
    if scores.shape[1] == 1:
        # The argmax would be class 0 everywhere, with a confidence of one.
        score = scores[:, 0].clamp(max=1)
        label = torch.full_like(score, IGNORE, dtype=torch.long)
        label.masked_fill_(score > class_threshold, 0)
        confidence = torch.where(label == 0, score, 1 - score)
        if threshold is not None:
            label = label.masked_fill(confidence < threshold, IGNORE)
        return label, confidence
    label = scores.max(dim=1).indices
    confidence = best_share(scores)
    if threshold is not None:
        label = label.masked_fill(confidence < threshold, IGNORE)
    return label, confidence


def best_share(scores: Tensor) -> Tensor:
    """Compute the share of the best class in each pixel: the confidence.

    Args:
        scores: (..., K, H, W) float, not negative, K above 1.

    Returns:
        (..., H, W) in [0, 1]: the best score divided by the sum over classes,
        0 for a pixel outside of all masks, NaN where a score is NaN or
        infinite.
    """
    total = scores.sum(-3)
    share = scores.amax(-3) / total.clamp(min=1e-6)
    return share.masked_fill(~total.isfinite(), torch.nan)


def refine_label(
    refiner: Callable[..., Tensor],
    image: Tensor,
    label: Tensor,
    confidence: Tensor,
) -> Tensor:
    """Call a refiner with what it takes.

    Args:
        refiner: ``(image, label) -> label``; if its attribute
            ``uses_confidence`` is true, ``(image, label, confidence)``.
        image: (3, H, W) uint8 RGB.
        label: (H, W) int64.
        confidence: (H, W) float in [0, 1], the teacher's.

    Returns:
        (H, W) int64, perhaps on another device.
    """
    if getattr(refiner, 'uses_confidence', False):
        return refiner(image, label, confidence)
    return refiner(image, label)


def as_scores(head: nn.Module, outputs: Tensor) -> Tensor:
    """Convert what a head predicts to scores that are not negative.

    Args:
        head: ``CLOUDSHead``, whose predictions are such scores, or a head of
            MMSegmentation, which predicts logits.
        outputs: (..., K, H, W) float.

    Returns:
        Same shape; of logits the softmax over the classes, or the sigmoid
        if K is 1.
    """
    if isinstance(head, nn.ModuleList):
        head = head[-1]
    if not isinstance(head, BaseDecodeHead):
        return outputs
    if outputs.shape[-3] == 1:
        return outputs.sigmoid()
    return outputs.softmax(-3)


def class_shares(scores: Tensor) -> Tensor:
    """Scale scores to a share of each class in each pixel.

    Args:
        scores: (..., K, H, W) float, not negative.

    Returns:
        Same shape, float32, sums over K of 1 (0 for a pixel outside of all
        masks). If K is 1, the score itself, at most 1.
    """
    scores = scores.float()
    if scores.shape[-3] == 1:
        return scores.clamp(max=1)
    return scores / scores.sum(-3, keepdim=True).clamp(min=1e-6)


def transport_shares(
    scores: Tensor,
    *,
    marginals: str = 'uniform',
    epsilon: float = 0.05,
    iterations: int = 3,
) -> Tensor:
    """Balance the classes of an image by optimal transport.

    The pixels of an image are assigned to classes such that each class
    receives a given share of them; the cost of an assignment is ``-log p``
    and the plan is regularised by its entropy (Sinkhorn's algorithm). Source:
    SENSE (arXiv 2605.19289), which uses uniform marginals.

    Args:
        scores: (N, K, H, W) float, not negative.
        marginals: ``'uniform'``: each class receives the same number of
            pixels. ``'scores'``: as many as the scores give it altogether.
        epsilon: Weight of the entropy, positive.
        iterations: Of Sinkhorn's algorithm, at least 1.

    Returns:
        (N, K, H, W) float32, the share of each class in each pixel.
    """
    shares = class_shares(scores)
    log_kernel = shares.clamp(min=1e-6).log().flatten(2) / epsilon
    num_classes, pixels = log_kernel.shape[1:]
    if marginals == 'uniform':
        log_classes = log_kernel.new_zeros(len(scores), num_classes, 1)
        log_classes -= math.log(num_classes)
    else:
        mean = shares.flatten(2).mean(2, keepdim=True)
        log_classes = (mean / mean.sum(1, keepdim=True)).clamp(1e-6).log()
    log_plan = log_kernel
    for _ in range(iterations):
        # Each class receives its share of the pixels; then each pixel is
        # assigned once.
        received = log_plan.logsumexp(2, keepdim=True) - math.log(pixels)
        log_plan = log_plan + log_classes - received
        log_plan = log_plan.log_softmax(1)
    return log_plan.exp().view_as(shares)


def expected_iou(scores: Tensor, label: Tensor) -> Tensor:
    """Estimate the IoU of each region of a label with the truth.

    With p the share of a class in a pixel's scores and m its region, the IoU
    of both is ``sum(p m) / (sum(p) + sum(m) - sum(p m))``. On ToyCity it
    agrees with the true IoU better than the mean confidence of a region does
    (see docs/self_training.md), and it needs no threshold.

    Args:
        scores: (K, H, W) float, not negative, of the teacher.
        label: (H, W) int64 in [0, K) or 255, refined or not.

    Returns:
        (K,) float32 in [0, 1]; 0 for a class that the label does not show.
    """
    shares = class_shares(scores)
    num_classes = len(shares)
    index = torch.where(label == IGNORE, num_classes, label).flatten()
    # Ignored pixels belong to an additional class without scores.
    own = F.pad(shares.flatten(1), (0, 0, 0, 1)).gather(0, index[None])[0]
    both, area = own.new_zeros(2, num_classes + 1)
    both.index_add_(0, index, own)
    area.index_add_(0, index, torch.ones_like(own))
    both, area = both[:-1], area[:-1]
    union = shares.flatten(1).sum(1) + area - both
    return both / union.clamp(min=1e-6)


def value_of_class(values: Tensor, label: Tensor) -> Tensor:
    """Write each class's value into its region.

    Args:
        values: (K,) float.
        label: (H, W) int64 in [0, K) or 255.

    Returns:
        (H, W) float; 0 where the label is 255.
    """
    index = torch.where(label == IGNORE, len(values), label)
    return F.pad(values, (0, 1))[index]


def flip_label(label: Tensor, direction: str | None) -> Tensor:
    """Flip a map as the student's view was flipped.

    Args:
        label: (..., H, W).
        direction: ``'horizontal'``, ``'vertical'``, ``'diagonal'`` or None,
            as mmcv's ``RandomFlip`` records it.

    Returns:
        A map of the same shape.

    Raises:
        ValueError: For another direction.
    """
    axes = {
        None: (),
        'horizontal': (-1,),
        'vertical': (-2,),
        'diagonal': (-2, -1),
    }
    if direction not in axes:
        raise ValueError(
            f'flip direction must be one of {list(axes)}, got {direction!r}'
        )
    return label.flip(axes[direction]) if axes[direction] else label


class PseudoLabelStatistics:
    """Sums over the pseudo labels since the last call of :meth:`pop`.

    They are kept on the labels' device and rarely read, so that counting
    does not synchronise the training step with the host. They are for
    reports only and not saved in checkpoints.

    Args:
        num_classes: K.
    """

    def __init__(self, num_classes: int):
        self.num_classes = num_classes
        self._sums = None
        self._iou = None
        self._views = None

    def update(
        self,
        before: Tensor,
        after: Tensor,
        confidence: Tensor,
        iou: Tensor | None = None,
    ) -> None:
        """Add the pseudo label of one image.

        Args:
            before: (H, W) int64 label before refinement.
            after: (H, W) int64 label after refinement; the same tensor where
                there is no refiner.
            confidence: (H, W) float32 in [0, 1].
            iou: (K,) float32, see :func:`expected_iou`, if it was computed.
        """
        kept = after != IGNORE
        both = kept & (before != IGNORE)
        histogram = torch.bincount(after[kept], minlength=self.num_classes)
        sums = torch.cat(
            [
                torch.stack(
                    [
                        kept.new_tensor(1, dtype=torch.float64),
                        kept.new_tensor(kept.numel(), dtype=torch.float64),
                        kept.sum(dtype=torch.float64),
                        confidence.sum(dtype=torch.float64),
                        both.sum(dtype=torch.float64),
                        (both & (before == after)).sum(dtype=torch.float64),
                    ]
                ),
                histogram.double(),
            ]
        )
        self._sums = _add(self._sums, sums)
        if iou is not None:
            shown = (histogram > 0).double()
            self._iou = _add(self._iou, torch.stack([iou * shown, shown]))

    def update_views(self, first: Tensor, second: Tensor) -> None:
        """Add the labels of two views of one image, both (H, W) int64."""
        same = (first == second).sum(dtype=torch.float64)
        views = torch.stack([same, torch.full_like(same, first.numel())])
        self._views = _add(self._views, views)

    def pop(self) -> dict | None:
        """Return the statistics and reset the sums.

        Returns:
            ``images`` (int), ``kept`` (share of pixels that have a label),
            ``confidence`` (mean over pixels), ``agreement`` (share of the
            pixels labelled both before and after refinement whose label is
            the same), ``histogram`` (list of each class's share of the
            labelled pixels), ``class_iou`` (list of each class's mean
            expected IoU over the images that show it; None for a class
            without an image), ``expected_iou`` (its mean over classes; None
            if it was not computed) and ``view_agreement`` (share of pixels
            with the same label in two views of the teacher; None if views
            were not compared). None if there was no image.
        """
        if self._sums is None:
            return None
        images, pixels, kept, confidence, both, agreed, *counts = (
            self._sums.tolist()
        )
        class_iou = [None] * self.num_classes
        if self._iou is not None:
            class_iou = [
                value / number if number else None
                for value, number in self._iou.T.tolist()
            ]
        known = [value for value in class_iou if value is not None]
        views = None
        if self._views is not None:
            same, compared = self._views.tolist()
            views = same / compared
        self._sums = self._iou = self._views = None
        return dict(
            images=int(images),
            kept=kept / pixels,
            confidence=confidence / pixels,
            agreement=agreed / max(both, 1.0),
            histogram=[count / max(kept, 1.0) for count in counts],
            expected_iou=sum(known) / len(known) if known else None,
            class_iou=class_iou,
            view_agreement=views,
        )


def _add(total, value):
    return value if total is None else total + value
