"""Rules by which images and pixels of a generated set are left out.

Pure functions of what was measured: :mod:`.measures` runs the model,
:mod:`.filter_bank` writes the result.

K classes; H and W of an image.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np

from clouds_mmseg.utils.cityscapes import IGNORE
from clouds_mmseg.utils.errors import UserError

# Bits of a difference hash: 16 rows of 16.
_SIDE = 16
BITS = _SIDE * _SIDE
# Of the grey values of an image reduced to 32 columns, in 1/255: a uniform
# surface with noise is below, a street in dense fog above.
_LEAST_SPREAD = 3.0
# Deviations below the median of a set at which a similarity is an outlier.
_OUTLIER = 4.0
# The median absolute deviation of a normal distribution, in deviations.
_MAD = 0.6745


@dataclass(frozen=True)
class FilterRule:
    """What is left out.

    Attributes:
        k: A labelled pixel whose loss is above ``k`` times the mean loss of
            its class becomes 255. Above 0.
        min_kept: Least share of labelled pixels that must be left in an
            image, in [0, 1].
        min_confidence: Least mean confidence of the teacher on an image
            without label, in [0, 1].
        duplicates: An image of which at most this share of the bits of the
            perceptual hash differs from those of an earlier one is its near
            copy. In [0, 1].
        min_similarity: Least cosine of CLIP between image and prompt, in
            [0, 1]; None leaves out those far below the others.

    Raises:
        UserError: A value is out of its range.
    """

    k: float = 1.25
    min_kept: float = 0.5
    min_confidence: float = 0.5
    duplicates: float = 0.02
    min_similarity: float | None = None

    def __post_init__(self) -> None:
        if not self.k > 0 or not np.isfinite(self.k):
            raise UserError(
                f'k (--k) must be above 0, got {self.k}; a pixel is left out '
                'if its loss is above k times the mean of its class'
            )
        for name, value in asdict(self).items():
            if name == 'k' or value is None:
                continue
            if not 0 <= value <= 1:
                option = name.replace('_', '-')
                raise UserError(
                    f'{name} (--{option}) must lie in [0, 1], got {value}'
                )


def difference_hash(grey: np.ndarray) -> str:
    """Return the perceptual hash of an image.

    Args:
        grey: (16, 17), the image reduced to this size.

    Returns:
        64 hexadecimal digits: for each pixel whether its right neighbour is
        brighter.
    """
    bits = grey[:, 1:] > grey[:, :-1]
    return np.packbits(bits).tobytes().hex()


def near_copies(
    hashes: Mapping[int, str], share: float
) -> dict[int, tuple[int, float]]:
    """Find images whose hash is nearly that of an earlier image.

    Args:
        hashes: Number of an image -> its hash, ascending.
        share: Largest share of bits that differ, in [0, 1].

    Returns:
        Number of a copy -> number of the image that is kept for it, and the
        share of bits that differ.
    """
    numbers = list(hashes)
    if not numbers:
        return {}
    packed = np.frombuffer(bytes.fromhex(''.join(hashes.values())), np.uint64)
    packed = packed.reshape(len(numbers), -1)
    kept = np.empty_like(packed)
    originals: list[int] = []
    copies = {}
    for own, number in zip(packed, numbers, strict=True):
        if originals:
            others = kept[: len(originals)]
            differing = np.bitwise_count(others ^ own).sum(1)
            nearest = int(differing.argmin())
            if differing[nearest] <= share * BITS:
                found = int(differing[nearest]) / BITS
                copies[number] = (originals[nearest], found)
                continue
        kept[len(originals)] = own
        originals.append(number)
    return copies


def is_blank(spread: float) -> bool:
    """Tell whether an image shows nothing.

    Args:
        spread: Standard deviation of its grey values, reduced to 32 columns,
            in 1/255.
    """
    return spread < _LEAST_SPREAD


def similarity_limit(
    values: Sequence[float], rule: FilterRule
) -> float | None:
    """Return the least similarity of image and prompt.

    Args:
        values: Of the images that have one.
        rule: Of the filter.

    Returns:
        ``min_similarity``; else what is far below the median. None without
        values.
    """
    if not len(values):
        return None
    if rule.min_similarity is not None:
        return rule.min_similarity
    median = float(np.median(values))
    deviation = float(np.median(np.abs(np.asarray(values) - median))) / _MAD
    return median - _OUTLIER * deviation


def class_limits(
    sums: np.ndarray, counts: np.ndarray, k: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean loss of each class and the largest loss that is kept.

    Args:
        sums: (N, K) float64, sum of the losses of each class in each image.
        counts: (N, K), number of its pixels.
        k: Factor.

    Returns:
        (K,) each; NaN for a class without a pixel.
    """
    with np.errstate(invalid='ignore'):
        means = sums.sum(0) / counts.sum(0)
    return means, k * means


def filtered_label(
    label: np.ndarray, loss: np.ndarray, limits: np.ndarray
) -> np.ndarray:
    """Set the pixels of a label to 255 whose loss is above the limit.

    Args:
        label: (H, W) uint8 class indices, 255 ignored.
        loss: (H, W).
        limits: (K,), see :func:`class_limits`.

    Returns:
        (H, W) uint8.
    """
    table = np.full(256, np.inf)
    table[: len(limits)] = limits
    result = label.copy()
    result[loss > table[label]] = IGNORE
    return result
