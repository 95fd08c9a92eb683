"""Spread over seeds; paired differences with confidence intervals."""

import math
from collections.abc import Mapping, Sequence
from statistics import mean, stdev
from typing import NamedTuple

from scipy.stats import t as student_t

CONFIDENCE = 0.95


class Difference(NamedTuple):
    """Mean difference of two configs over the seeds that both have.

    Attributes:
        mean: Of the differences by seed.
        margin: Half width of its 95 % interval, by Student's t with n - 1
            degrees of freedom; infinite for one seed.
        values: The difference of each seed, in the order of the seeds.
    """

    mean: float
    margin: float
    values: tuple[float, ...]

    @property
    def low(self) -> float:
        """Lower end of the interval."""
        return self.mean - self.margin

    @property
    def high(self) -> float:
        """Upper end of the interval."""
        return self.mean + self.margin

    def __str__(self) -> str:
        if math.isinf(self.margin):
            return f'{self.mean:+.1f}'
        return f'{self.mean:+.1f} ± {self.margin:.1f}'


def spread(values: Sequence[float], digits: int = 1) -> str:
    """Format mean and sample standard deviation over seeds.

    Args:
        values: One value per seed.
        digits: Decimal places.

    Returns:
        Such as ``'40.1 ± 0.6'``; the value alone if there is only one.
    """
    text = f'{mean(values):.{digits}f}'
    if len(values) > 1:
        text += f' ± {stdev(values):.{digits}f}'
    return text


def paired_difference(
    ours: Mapping[str, float], theirs: Mapping[str, float]
) -> Difference | None:
    """Compare two configs seed by seed.

    Args:
        ours: Seed -> value.
        theirs: Seed -> value.

    Returns:
        Of ``ours - theirs``; None without a common seed.
    """
    seeds = sorted(set(ours) & set(theirs), key=int)
    if not seeds:
        return None
    values = tuple(ours[seed] - theirs[seed] for seed in seeds)
    margin = math.inf
    if len(values) > 1:
        quantile = student_t.ppf((1 + CONFIDENCE) / 2, len(values) - 1)
        margin = float(quantile) * stdev(values) / math.sqrt(len(values))
    return Difference(mean(values), margin, values)
