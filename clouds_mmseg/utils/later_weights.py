"""Whether a checkpoint is about to fill a model that is being built."""

from contextlib import contextmanager
from contextvars import ContextVar

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
