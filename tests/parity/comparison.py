"""Greatest differences of tensors, and what is allowed."""

from typing import NamedTuple

LOGITS = 1e-4
LOSSES = 1e-5
EXACT = 0.0
MODULES = 1e-5
GRADIENTS = 1e-4


class Comparison(NamedTuple):
    """Greatest absolute difference of one tensor, and what is allowed."""

    name: str
    error: float
    allowed: float

    @property
    def passed(self):
        """Whether the difference is allowed; false for one that is NaN."""
        return self.error <= self.allowed

    @property
    def excess(self):
        """How far the error is out; comparable between tolerances."""
        if self.error != self.error:
            return float('inf')
        return self.error / self.allowed if self.allowed else self.error * 1e9


def compare(name, ours, theirs, allowed):
    """Compare two tensors.

    Args:
        name (str): What they are.
        ours (Tensor): Any shape.
        theirs (Tensor): The same shape.
        allowed (float): Greatest absolute difference.

    Returns:
        Comparison: Infinite for another shape.
    """
    if ours.shape != theirs.shape:
        return Comparison(
            f'{name} {tuple(ours.shape)} for {tuple(theirs.shape)}',
            float('inf'),
            allowed,
        )
    difference = ours.detach().double() - theirs.double()
    return Comparison(
        name, difference.abs().amax().item() if ours.numel() else 0.0, allowed
    )


def compare_relative(name, ours, theirs, allowed):
    """Compare two tensors by the greatest entry of the second.

    Args:
        name (str): What they are.
        ours (Tensor | None): Any shape.
        theirs (Tensor): The same shape.
        allowed (float): Greatest relative difference.

    Returns:
        Comparison: Infinite for another shape or None.
    """
    if ours is None:
        return Comparison(f'{name} (none)', float('inf'), allowed)
    found = compare(name, ours, theirs, allowed)
    scale = theirs.double().abs().amax().item() if theirs.numel() else 1.0
    return found._replace(error=found.error / max(scale, 1e-12))
