"""Checks of the head's arguments, before anything is built of them."""

from numbers import Integral, Real


def check_widths(*, in_channels, strides, feat_channels, num_heads, groups):
    """Check the arguments that depend on one another.

    Args:
        in_channels (Sequence[int]): Of the four maps.
        strides (Sequence[int]): Of the four maps.
        feat_channels (int): Channels inside the head.
        num_heads (int): Attention heads.
        groups (int): Groups of the normalisations.

    Raises:
        ValueError: Naming the argument, the rule and the value.
    """
    for name, values in (('in_channels', in_channels), ('strides', strides)):
        if not _four_counts(values):
            raise ValueError(
                f'{name} must be four positive integers, one for each map '
                f'of the backbone, finest first; got {values!r}'
            )
    for a, b in zip(strides[:-1], strides[1:], strict=True):
        if a >= b:
            raise ValueError(
                f'strides must grow from map to map, got {list(strides)}'
            )
    for name, divisor in (
        ('num_heads', num_heads),
        ('num_groups', groups),
        # The position code has sines and cosines of x and of y.
        ('4', 4),
    ):
        if feat_channels % divisor:
            raise ValueError(
                f'feat_channels must be a multiple of {name}'
                f'{"" if name == "4" else f"={divisor}"}, got {feat_channels}'
            )


def check_counts(**values):
    """Check that arguments are positive integers.

    Args:
        **values (int): The arguments by name.

    Raises:
        ValueError: Naming the argument and the value.
    """
    for name, value in values.items():
        if not _is_count(value):
            raise ValueError(
                f'{name} must be a positive integer, got {value!r}'
            )


def check_loss(
    *,
    num_points,
    oversample_ratio,
    importance_sample_ratio,
    **weights,
):
    """Check the options of the loss.

    Args:
        num_points (int): A positive integer.
        oversample_ratio (float): At least 1.
        importance_sample_ratio (float): In [0, 1].
        **weights (float): Not negative.

    Raises:
        ValueError: Naming the option, the rule and the value.
    """
    check_counts(**{'loss.num_points': num_points})
    if not _in(oversample_ratio, 1, float('inf')):
        raise ValueError(
            f'loss.oversample_ratio must be at least 1, got '
            f'{oversample_ratio!r}'
        )
    if not _in(importance_sample_ratio, 0, 1):
        raise ValueError(
            'loss.importance_sample_ratio must be in [0, 1], got '
            f'{importance_sample_ratio!r}'
        )
    for name, value in weights.items():
        if not _in(value, 0, float('inf')):
            raise ValueError(
                f'loss.{name} must not be negative, got {value!r}'
            )


def _is_count(value):
    return (
        isinstance(value, Integral)
        and not isinstance(value, bool)
        and value >= 1
    )


def _four_counts(values):
    return (
        isinstance(values, (list, tuple))
        and len(values) == 4
        and all(_is_count(v) for v in values)
    )


def _in(value, low, high):
    return isinstance(value, Real) and low <= value <= high
