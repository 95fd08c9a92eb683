"""Detection of NaN and infinite values, reported by name."""

import torch
from torch import nn
from torch.distributed.tensor import DTensor
from torch.nn.utils import get_total_norm

from clouds_mmseg.utils.errors import UserError

# More names than these are counted, not listed.
_NAMED = 8


class NonFiniteError(UserError):
    """A loss, gradient, weight or score is NaN or infinite.

    Attributes:
        is_told (bool): Whether the message says where a training stood.
    """

    is_told = False


@torch.no_grad()
def nonfinite_weights(module: nn.Module) -> dict[str, tuple[int, int]]:
    """Find the tensors of a module that are not finite.

    Parameters and running statistics have to be finite; other buffers may
    hold infinities (attention masks), but no NaN. One pass and one
    synchronisation if all values are finite.

    Args:
        module: On any device, of any dtype.

    Returns:
        Key -> number of values that are NaN or infinite, and of all.
    """
    weights, buffers = {}, {}
    for key, value in module.named_parameters():
        weights[key] = value
    for key, value in module.named_buffers():
        running = key.rpartition('.')[2].startswith('running_')
        (weights if running else buffers)[key] = value
    weights, buffers = _floating(weights), _floating(buffers)
    suspect = {}
    # A sum of squares is finite only if every value is.
    if weights and not get_total_norm(weights.values()).isfinite():
        suspect = {k: ~v.isfinite() for k, v in weights.items()}
    if buffers:
        sums = [v.isnan().sum() for v in buffers.values()]
        if torch.stack([s.to(sums[0].device) for s in sums]).any():
            suspect |= {k: v.isnan() for k, v in buffers.items()}
    counts = {k: (int(v.sum()), v.numel()) for k, v in suspect.items()}
    return {k: count for k, count in counts.items() if count[0]}


def _floating(tensors):
    # Of what is sharded, the part of this process.
    parts = {
        key: value.to_local() if isinstance(value, DTensor) else value
        for key, value in tensors.items()
    }
    return {
        key: value.detach()
        for key, value in parts.items()
        if value.is_floating_point() and value.numel()
    }


def require_finite_scores(scores: torch.Tensor, image: str | None) -> None:
    """Refuse class scores whose maximum is not finite.

    The best of scores among which is a NaN is a class like any other: it
    looks like a prediction and is counted as one.

    Args:
        scores: (K, H, W) of an image. Minus infinity is a class that is
            excluded, as long as another is not.
        image: Path of the image, for the message.

    Raises:
        NonFiniteError: A pixel's best score is NaN or infinite.
    """
    require_finite_best(scores.amax(dim=0), image)


def require_finite_best(best: torch.Tensor, image: str | None) -> None:
    """:func:`require_finite_scores`, given the best score of each pixel.

    Args:
        best: (H, W) or (1, H, W) float.
        image: Path of the image, for the message.

    Raises:
        NonFiniteError: A value is NaN or infinite.
    """
    # NaN is passed on by both; no map is made where all is well.
    if torch.stack(torch.aminmax(best)).isfinite().all():
        return
    bad = ~best.isfinite()
    raise NonFiniteError(
        f'the scores that the model predicts for {image or "an image"} are '
        f'not finite at {int(bad.sum())} of {bad.numel()} pixels (NaN or '
        'infinite): no class can be read from them. Look at the values of '
        'the image and, of a training, at its losses: too high a learning '
        'rate makes weights so large; in mixed precision (--amp) try without'
    )


def listed(items: list[str]) -> str:
    """Join names for a message; of many the first few.

    Args:
        items: What to name.

    Returns:
        For example ``'a, b and 7 more'``.
    """
    text = ', '.join(items[:_NAMED])
    more = len(items) - _NAMED
    return f'{text} and {more} more' if more > 0 else text
