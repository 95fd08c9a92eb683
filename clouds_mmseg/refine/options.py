"""Checks of the refiners' arguments."""

from clouds_mmseg.utils.errors import UserError


def check_choice(owner, name, value, choices):
    """Raise unless an argument is one of some words.

    Args:
        owner (object): Whose argument it is.
        name (str): The argument.
        value (object): What was given.
        choices (Sequence[str]): What may be given.

    Raises:
        UserError: Names all of these.
    """
    if value not in choices:
        raise UserError(
            f'{type(owner).__name__}: {name} must be one of '
            f'{", ".join(choices)}; got {value!r}.'
        )


def check_range(owner, name, value, *, low, high=None, whole=False):
    """Raise unless an argument is a number between two bounds.

    Args:
        owner (object): Whose argument it is.
        name (str): The argument.
        value (object): What was given.
        low (float): The smallest value allowed.
        high (float | None): The largest value allowed; None for no bound.
        whole (bool): Only whole numbers are allowed.

    Raises:
        UserError: Names all of these.
    """
    kinds = int if whole else (int, float)
    if (
        isinstance(value, kinds)
        and not isinstance(value, bool)
        and value >= low
        and (high is None or value <= high)
    ):
        return
    kind = 'a whole number' if whole else 'a number'
    bounds = f'of at least {low}' if high is None else f'in [{low}, {high}]'
    raise UserError(
        f'{type(owner).__name__}: {name} must be {kind} {bounds}; got '
        f'{value!r}.'
    )
