"""Majority vote of a label's pixels within regions of the image.

Shape letters: H, W of the image; N regions; K classes in the label.
"""

from typing import NamedTuple

import numpy as np

from clouds_mmseg.utils.cityscapes import IGNORE

TIES = ('undecided', 'rare', 'first')
UNDECIDED = ('keep', 'ignore')
OVERLAPS = ('small', 'large', 'quality', 'share')


class VoteRules(NamedTuple):
    """When a region gets the most frequent class of its pixels.

    Attributes:
        min_share: Share of a region's pixels, including ignored ones, that
            must have the most frequent class, in [0, 1]; below, the region
            is undecided.
        min_area: Regions of fewer pixels are undecided.
        ties: If two classes are equally frequent the region is
            ``undecided``, or gets the one that is rarer in the image's label
            (``rare``; the first of those that are as rare), or the one of
            the lower number (``first``).
        undecided: What becomes of the pixels of undecided regions: ``keep``
            leaves their labels, ``ignore`` takes them away.
        ignore_index: Pixels of this label have no vote; in a region that is
            decided they get its class.
    """

    min_share: float = 0.0
    min_area: float = 1
    ties: str = 'first'
    undecided: str = 'keep'
    ignore_index: int = IGNORE


class Decision(NamedTuple):
    """What a vote decided for each of N regions.

    Attributes:
        classes: (N,) int64; arbitrary where undecided.
        decided: (N,) bool.
        share: (N,) float64: of the winning class among all pixels.
    """

    classes: np.ndarray
    decided: np.ndarray
    share: np.ndarray


def decide(
    votes: np.ndarray,
    classes: np.ndarray,
    totals: np.ndarray,
    rules: VoteRules,
) -> Decision:
    """Find the winner of each region.

    Args:
        votes: (N, K) int, pixels of each class in a region.
        classes: (K,) int64, the labels that the columns are of, ascending,
            among them perhaps the ignored one.
        totals: (K,) int, pixels of each class in the image.
        rules: See :class:`VoteRules`.
    """
    areas = votes.sum(axis=1)
    votes = np.where(classes == rules.ignore_index, 0, votes)
    most = votes.max(axis=1)
    first = votes == most[:, None]  # (N, K): the most frequent ones
    if rules.ties == 'rare':
        winner = np.where(first, totals, totals.max() + 1).argmin(axis=1)
    else:
        winner = first.argmax(axis=1)
    decided = (most >= rules.min_share * areas) & (most > 0)
    decided &= areas >= rules.min_area
    if rules.ties == 'undecided':
        decided &= first.sum(axis=1) == 1
    return Decision(classes[winner], decided, most / np.maximum(areas, 1))


def vote_in_segments(
    label: np.ndarray, segments: np.ndarray, rules: VoteRules
) -> np.ndarray:
    """Vote in regions that cover the image and do not overlap.

    Args:
        label: (H, W) int64.
        segments: (H, W) int, indices of segments from 0.
        rules: See :class:`VoteRules`.

    Returns:
        (H, W) int64.
    """
    classes, index = np.unique(label, return_inverse=True)
    segments = segments.ravel()
    count = int(segments.max()) + 1
    votes = np.bincount(
        segments * len(classes) + index.ravel(),
        minlength=count * len(classes),
    ).reshape(count, len(classes))
    found = decide(votes, classes, votes.sum(axis=0), rules)
    keeps = rules.undecided == 'keep'
    other = label if keeps else np.full_like(label, rules.ignore_index)
    chosen = np.where(
        found.decided[segments], found.classes[segments], other.ravel()
    )
    return chosen.reshape(label.shape)


def vote_in_masks(
    label: np.ndarray,
    masks: np.ndarray,
    quality: np.ndarray,
    rules: VoteRules,
    *,
    overlap: str = 'small',
    uncovered: str = 'keep',
) -> np.ndarray:
    """Vote in masks that may overlap.

    All votes are of the given label, so that no mask changes the vote of
    another.

    Args:
        label: (H, W) int64.
        masks: (N, H, W) bool.
        quality: (N,) float, as the model predicts it.
        rules: See :class:`VoteRules`. Masks of fewer than ``min_area``
            pixels are left out: their pixels belong to the other masks.
        overlap: The mask that a pixel of several belongs to: the one of the
            fewest pixels (``small``) or of the most (``large``), the one of
            the best ``quality``, or the one whose winning class has the
            largest ``share``. Of equal ones the first wins.
        uncovered: Pixels of no mask keep their label (``keep``) or are
            ignored (``ignore``).

    Returns:
        (H, W) int64.
    """
    areas = masks.sum(axis=(1, 2))
    large = areas >= max(rules.min_area, 1)
    masks, quality, areas = masks[large], quality[large], areas[large]
    classes, index = np.unique(label, return_inverse=True)
    index = index.reshape(label.shape)
    count = len(classes)
    votes = np.array(
        [np.bincount(index[mask], minlength=count) for mask in masks], int
    ).reshape(len(masks), count)
    totals = np.bincount(index.ravel(), minlength=count)
    found = decide(votes, classes, totals, rules)
    rank = dict(small=-areas, large=areas, quality=quality, share=found.share)[
        overlap
    ]
    refined = label.copy()
    if uncovered == 'ignore':
        refined[:] = rules.ignore_index
    # Drawn from the last to the first.
    for number in np.argsort(-rank, kind='stable')[::-1]:
        mask = masks[number]
        if found.decided[number]:
            refined[mask] = found.classes[number]
        elif rules.undecided == 'keep':
            refined[mask] = label[mask]
        else:
            refined[mask] = rules.ignore_index
    return refined
