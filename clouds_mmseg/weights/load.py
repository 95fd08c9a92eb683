"""All-or-nothing loading of weights into a module."""

from collections.abc import Iterable, Mapping
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import nn

from clouds_mmseg.utils.errors import UserError

# A list longer than this hides the point of the message instead of making it.
_SHOWN = 20
# The step counter of a batch norm. It changes no output, and torch itself
# tolerates its absence, because files from before torch 0.4 do not have it.
_COUNTER = 'num_batches_tracked'


class CheckpointMismatchError(UserError, RuntimeError):
    """The keys or the shapes of some weights are not those of the module.

    Attributes:
        missing (dict[str, tuple]): Key -> shape the module has, the weights
            have not.
        unexpected (dict[str, tuple]): Key -> shape the weights have, the
            module has not.
        shape_mismatches (dict[str, tuple]): Key -> shape in the weights, and
            in the module.
    """

    def __init__(
        self, message, *, missing=(), unexpected=(), shape_mismatches=()
    ):
        super().__init__(message)
        self.missing = dict(missing)
        self.unexpected = dict(unexpected)
        self.shape_mismatches = dict(shape_mismatches)

    @classmethod
    def listing(cls, source, target, *, missing, unexpected, shape_mismatches):
        """Make the error for weights of ``source`` that ``target`` rejects.

        At most 20 keys of each kind are in the message, all of them in the
        attributes.
        """
        lines = [
            f'{source} does not fit {target}: {len(missing)} keys missing, '
            f'{len(unexpected)} unexpected, {len(shape_mismatches)} of '
            'another shape. Nothing was loaded.'
        ]
        lines += _listing('missing in the weights', missing)
        lines += _listing('unexpected in the weights', unexpected)
        both = {
            key: f'{found} in the weights, {wanted} wanted'
            for key, (found, wanted) in shape_mismatches.items()
        }
        lines += _listing('of another shape', both)
        return cls(
            '\n'.join(lines),
            missing=missing,
            unexpected=unexpected,
            shape_mismatches=shape_mismatches,
        )


def _listing(title, entries):
    """Format at most ``_SHOWN`` entries under a title."""
    if not entries:
        return []
    items = list(entries.items())
    lines = [f'  {title}:']
    lines += [f'    {key} {detail}' for key, detail in items[:_SHOWN]]
    if len(items) > _SHOWN:
        lines.append(f'    ... and {len(items) - _SHOWN} more')
    return lines


def has_prefix(key: str, prefixes: Iterable[str]) -> bool:
    """Tell whether a key lies under one of some dotted prefixes.

    Whole segments count: ``head`` covers ``head`` and ``head.weight`` but
    not ``header.weight``. The empty prefix covers everything.
    """
    return any(
        not p or key == p or key.startswith(p.rstrip('.') + '.')
        for p in prefixes
    )


def load_strictly(
    module: nn.Module,
    state_dict: Mapping[str, torch.Tensor],
    *,
    source: str,
    allow_missing: Iterable[str] = (),
    allow_unexpected: Iterable[str] = (),
) -> None:
    """Load weights into a module, or raise and leave it as it was.

    Values are converted to the dtype and the device of the module. A missing
    ``num_batches_tracked`` is no error: it changes no output.

    Args:
        module (nn.Module): Receives the weights. Keys are compared with
            those of its ``state_dict()``.
        state_dict (Mapping[str, Tensor]): The weights.
        source (str): Where they come from (a path), for the message.
        allow_missing (Iterable[str]): Dotted prefixes of keys of the module
            that may be absent; they keep their values.
        allow_unexpected (Iterable[str]): Dotted prefixes of keys that the
            module does not have and that are passed over.

    Raises:
        CheckpointMismatchError: If any other key is missing or unexpected,
            or a shape differs. A shape that differs is never allowed.
        TypeError: If a prefix argument is one string, or a value that would
            be loaded is not a tensor.
    """
    allow_missing = _prefixes('allow_missing', allow_missing)
    allow_unexpected = _prefixes('allow_unexpected', allow_unexpected)
    own = module.state_dict()
    shared = {k: v for k, v in state_dict.items() if k in own}
    for key, value in shared.items():
        if isinstance(own[key], torch.Tensor) and not isinstance(
            value, torch.Tensor
        ):
            raise TypeError(
                f'{source}: the value of {key} must be a tensor, got '
                f'{type(value).__name__}.'
            )
    missing = {
        k: _shape(v)
        for k, v in own.items()
        if k not in shared
        and k.rpartition('.')[2] != _COUNTER
        and not has_prefix(k, allow_missing)
    }
    unexpected = {
        k: _shape(v)
        for k, v in state_dict.items()
        if k not in own and not has_prefix(k, allow_unexpected)
    }
    shape_mismatches = {
        k: (_shape(v), _shape(own[k]))
        for k, v in shared.items()
        if _shape(v) != _shape(own[k])
    }
    if missing or unexpected or shape_mismatches:
        raise CheckpointMismatchError.listing(
            source,
            type(module).__name__,
            missing=missing,
            unexpected=unexpected,
            shape_mismatches=shape_mismatches,
        )
    module.load_state_dict(shared, strict=False)


def _prefixes(name, value):
    """Return the prefixes as a tuple; one string would be read by letters."""
    if isinstance(value, str):
        raise TypeError(
            f'{name} must be a list of prefixes, got the string {value!r}; '
            f'write [{value!r}].'
        )
    return tuple(value)


def _shape(value):
    """Return the shape of a tensor, () of anything else."""
    return tuple(getattr(value, 'shape', ()))


_COMING = ContextVar('weights_are_coming', default=False)


@contextmanager
def weights_come_later(coming):
    """Let backbones that are built inside read no pretrained files.

    A checkpoint holds a frozen backbone too, and whoever is given one should
    not need the files that its training began with.

    Args:
        coming (bool): Whether a checkpoint with every weight of the backbone
            will be loaded.

    Yields:
        None: Once.
    """
    token = _COMING.set(coming)
    try:
        yield
    finally:
        _COMING.reset(token)


def are_weights_coming():
    """Tell a constructor whether what it would load would be replaced.

    Returns:
        bool: False outside of :func:`weights_come_later`.
    """
    return _COMING.get()
