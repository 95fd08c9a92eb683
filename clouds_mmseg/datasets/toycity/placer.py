"""Random choices, and the ground that is still free."""

from bisect import bisect
from itertools import accumulate

import numpy as np

# Half of the narrowest field of view of the styles here, as a slope.
SLOPE = 0.45


class Placer:
    """Keeps what is placed, and refuses what would overlap.

    Args:
        rng (numpy.random.Generator): Source of all choices.
    """

    def __init__(self, rng):
        self.rng = rng
        self.items = []
        self._boxes = np.empty((512, 4))

    def put(self, item, margin=0.3):
        """Place an item unless its footprint overlaps another's.

        Args:
            item (Item): What.
            margin (float): Least gap to the others in metres.

        Returns:
            bool: Whether there was room.
        """
        x0, x1, z0, z1 = item.box
        count = len(self.items)
        a0, a1, b0, b1 = self._boxes[:count].T
        overlap = (x0 < a1 + margin) & (a0 < x1 + margin)
        overlap &= (z0 < b1 + margin) & (b0 < z1 + margin)
        if overlap.any() or count == len(self._boxes):
            return False
        self._boxes[count] = item.box
        self.items.append(item)
        return True

    def chance(self, share):
        """True in that share of the calls."""
        return bool(self.rng.random() < share)

    def between(self, low, high):
        """A number, all equally likely."""
        return low + (high - low) * float(self.rng.random())

    def count(self, low, high):
        """An integer from ``low`` to ``high``, both included."""
        return int(self.rng.integers(low, high + 1))

    def choice(self, values, weights=None):
        """One of the values; weights need not sum to 1."""
        if weights is None:
            return values[int(self.rng.integers(len(values)))]
        sums = list(accumulate(weights))
        return values[bisect(sums[:-1], self.rng.random() * sums[-1])]

    def seed(self):
        """A seed for what an item decides itself."""
        return int(self.rng.integers(1 << 31))


def in_view(x, nearest):
    """Distance in metres from which on something at x is in the picture."""
    return max(nearest, abs(x) / SLOPE)
