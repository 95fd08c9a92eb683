"""All-or-nothing loading of weights into a module."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import nn

from clouds_mmseg.utils.errors import UserError

# Entries of a list in an error message; a longer one hides the point.
_SHOWN = 20
# The step counter of a batch norm. It changes no output, and torch itself
# tolerates its absence, because files from before torch 0.4 do not have it.
_COUNTER = 'num_batches_tracked'
_DISABLED = ContextVar('pretrained_init_disabled', default=False)


class CheckpointMismatchError(UserError, RuntimeError):
    """Keys or shapes of a state dict differ from those of the module.

    Attributes:
        missing: Key that only the module has -> shape.
        unexpected: Key that only the weights have -> shape.
        shape_mismatches: Key -> shape in the weights, and in the module.
    """

    def __init__(
        self,
        message: str,
        *,
        missing: Mapping[str, tuple] | None = None,
        unexpected: Mapping[str, tuple] | None = None,
        shape_mismatches: Mapping[str, tuple] | None = None,
    ):
        super().__init__(message)
        self.missing = dict(missing or {})
        self.unexpected = dict(unexpected or {})
        self.shape_mismatches = dict(shape_mismatches or {})

    @classmethod
    def listing(
        cls,
        source: str,
        target: str,
        *,
        missing: Mapping[str, tuple],
        unexpected: Mapping[str, tuple],
        shape_mismatches: Mapping[str, tuple],
    ) -> 'CheckpointMismatchError':
        """Create the error for weights of ``source`` that ``target`` rejects.

        The message lists at most 20 keys of each kind, the attributes have
        all of them.
        """
        lines = [
            f'{source} does not fit {target}: {len(missing)} keys missing, '
            f'{len(unexpected)} unexpected, {len(shape_mismatches)} of '
            'another shape. Nothing was loaded.'
        ]
        lines += _listing('missing in the weights', missing)
        lines += _listing('unexpected in the weights', unexpected)
        both = {
            key: f'{found} in the weights, {expected} expected'
            for key, (found, expected) in shape_mismatches.items()
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
    """Tell whether a key starts with one of some dotted prefixes.

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
        module: Receives the weights. Keys are compared with those of its
            ``state_dict()``.
        state_dict: The weights.
        source: Where they come from (a path), for the message.
        allow_missing: Dotted prefixes of keys of the module that may be
            absent; they keep their values.
        allow_unexpected: Dotted prefixes of keys that the module does not
            have; these are skipped.

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
    """Return the prefixes as a tuple; refuse a string, a list of letters."""
    if isinstance(value, str):
        raise TypeError(
            f'{name} must be a list of prefixes, got the string {value!r}; '
            f'write [{value!r}].'
        )
    return tuple(value)


def _shape(value):
    """Return the shape of a tensor, () of anything else."""
    return tuple(getattr(value, 'shape', ()))


@contextmanager
def disable_pretrained_init(disabled: bool) -> Iterator[None]:
    """Keep backbones built in this context from reading pretrained files.

    A checkpoint contains the frozen backbone too, so a process that loads one
    should not need the files that its training started from.

    Args:
        disabled: Whether a checkpoint with every weight of the backbone will
            be loaded.
    """
    token = _DISABLED.set(disabled)
    try:
        yield
    finally:
        _DISABLED.reset(token)


def pretrained_init_disabled() -> bool:
    """Tell a constructor whether to skip pretrained files.

    True only inside of :func:`disable_pretrained_init`: a checkpoint will
    replace the weights that would be read.
    """
    return _DISABLED.get()
