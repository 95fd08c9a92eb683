"""Pseudo labels from the scores of a teacher, and their statistics."""

import torch

from clouds_mmseg.utils.cityscapes import IGNORE


def label_from_scores(scores, threshold=None, *, class_threshold=0.5):
    """Label each pixel with its best class.

    CLOUDS takes the plain argmax (section 3.3; no threshold in the official
    code); a threshold is an option here.

    Args:
        scores (Tensor): (N, C, H, W) float, not negative: class scores as
            ``predict`` of the head gives them.
        threshold (float | None): In [0, 1]. Pixels of a lower confidence
            are labelled 255.
        class_threshold (float): Read if there is one class: it is where its
            score is greater; elsewhere is nothing, 255.

    Returns:
        tuple[Tensor, Tensor]: Labels (N, H, W) int64, and confidences
        (N, H, W) float32 in [0, 1]: the best score's share of the sum over
        classes. A Mask2Former's scores do not sum to one, so the share, not
        the score, can be compared between pixels. Where a score is NaN or
        infinite the confidence is NaN, and the label means nothing.
    """
    scores = scores.float()
    if scores.shape[1] == 1:
        # The argmax would be the class everywhere, at a confidence of one.
        score = scores[:, 0].clamp(max=1)
        label = torch.full_like(score, IGNORE, dtype=torch.long)
        label.masked_fill_(score > class_threshold, 0)
        confidence = torch.where(label == 0, score, 1 - score)
        if threshold is not None:
            label = label.masked_fill(confidence < threshold, IGNORE)
        return label, confidence
    best, label = scores.max(dim=1)
    # (N, H, W); a pixel that no mask claims has all-zero scores.
    total = scores.sum(dim=1)
    confidence = best / total.clamp(min=1e-6)
    confidence = confidence.masked_fill(~total.isfinite(), torch.nan)
    if threshold is not None:
        label = label.masked_fill(confidence < threshold, IGNORE)
    return label, confidence


def flip_label(label, direction):
    """Mirror a map as the student's view was mirrored.

    Args:
        label (Tensor): (..., H, W).
        direction (str | None): ``'horizontal'``, ``'vertical'``,
            ``'diagonal'`` or None, as mmcv's ``RandomFlip`` records it.

    Returns:
        Tensor: Of the same shape.

    Raises:
        ValueError: Another direction.
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
    """Sums over the pseudo labels made since they were last read.

    Kept on the labels' device and read seldom, so that counting never makes
    the training step wait. It is a report, not a state: nothing of it is
    saved.

    Args:
        num_classes (int): Number of classes C.
    """

    def __init__(self, num_classes):
        self.num_classes = num_classes
        self._sums = None

    def update(self, before, after, confidence):
        """Count one image.

        Args:
            before (Tensor): (H, W) int64 label before refinement.
            after (Tensor): (H, W) int64 label after refinement; the same
                tensor where there is no refiner.
            confidence (Tensor): (H, W) float32 in [0, 1].
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

    def pop(self):
        """Read the sums and start anew.

        Returns:
            dict | None: ``images`` (int), ``kept`` (share of pixels that
            have a label), ``confidence`` (mean over pixels), ``agreement``
            (share of the pixels labelled both before and after refinement
            whose label is the same) and ``histogram`` (list of each class's
            share of the kept pixels); None if nothing was counted.
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
