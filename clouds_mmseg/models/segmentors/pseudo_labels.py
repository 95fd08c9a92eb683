"""Pseudo labels from the scores of a teacher, and their statistics."""

import torch
from torch import Tensor

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
    best, label = scores.max(dim=1)
    # (N, H, W); a pixel outside of all masks has scores of zero.
    total = scores.sum(dim=1)
    confidence = best / total.clamp(min=1e-6)
    confidence = confidence.masked_fill(~total.isfinite(), torch.nan)
    if threshold is not None:
        label = label.masked_fill(confidence < threshold, IGNORE)
    return label, confidence


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

    def update(
        self, before: Tensor, after: Tensor, confidence: Tensor
    ) -> None:
        """Add the pseudo label of one image.

        Args:
            before: (H, W) int64 label before refinement.
            after: (H, W) int64 label after refinement; the same tensor where
                there is no refiner.
            confidence: (H, W) float32 in [0, 1].
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
        self._sums = sums if self._sums is None else self._sums + sums

    def pop(self) -> dict | None:
        """Return the statistics and reset the sums.

        Returns:
            ``images`` (int), ``kept`` (share of pixels that have a label),
            ``confidence`` (mean over pixels), ``agreement`` (share of the
            pixels labelled both before and after refinement whose label is
            the same) and ``histogram`` (list of each class's share of the
            labelled pixels); None if there was no image.
        """
        if self._sums is None:
            return None
        images, pixels, kept, confidence, both, agreed, *counts = (
            self._sums.tolist()
        )
        self._sums = None
        return dict(
            images=int(images),
            kept=kept / pixels,
            confidence=confidence / pixels,
            agreement=agreed / max(both, 1.0),
            histogram=[count / max(kept, 1.0) for count in counts],
        )
