"""Names of the processes that a distributed run has lost.

A process that waits for others learns from gloo or NCCL that a connection
was closed or that a time-out has passed, not which process is to blame. Those
that learn it tell so through the store of the launcher, which outlives them;
those that tell nothing are the ones that are gone, or hang.
"""

import contextlib
import os
import socket
import time
from collections.abc import Iterator
from datetime import timedelta

import torch.distributed as dist
from mmengine.dist import get_rank, get_world_size

from clouds_mmseg.utils.errors import UserError

# Seconds in which the processes that are left find out and tell.
_WAIT = 10.0
# Messages of gloo, whose errors have no type of their own.
_SIGNS = ('gloo', 'Connection closed', 'Connection reset', 'Timed out waiting')


def introduce() -> None:
    """Tell the others host and number of this process, when it begins."""
    if get_world_size() > 1:
        _store().set(
            _key('name'), f'{socket.gethostname()}, pid {os.getpid()}'
        )


@contextlib.contextmanager
def naming_lost_ranks(timeout: float | None, work_dir: str) -> Iterator[None]:
    """Turn errors of communication into one that names lost processes.

    The lowest process that is left raises it; the others end without one.

    Args:
        timeout: ``env_cfg.dist_cfg.timeout``, seconds; None is torch's.
        work_dir: Where the checkpoints are.

    Raises:
        UserError: A process was killed or hangs.
    """
    try:
        yield
    except RuntimeError as error:
        if get_world_size() == 1 or not _is_communication(error):
            raise
        lost, speaker = _find_lost()
        if not lost:
            raise
        if get_rank() != speaker:
            time.sleep(1)  # The launcher ends all once the first has ended.
            raise SystemExit(1) from None
        number = 'its' if len(lost) == 1 else 'their'
        raise UserError(
            f'lost {", ".join(lost)} of {get_world_size()} processes: killed '
            f'(by the system, for want of memory?), or hanging for longer '
            f'than env_cfg.dist_cfg.timeout={timeout or "the default"} '
            f'seconds; look at the end of {number} output. The same command '
            f'with --resume continues from the newest checkpoint in '
            f'{work_dir}. What was noticed: {str(error).splitlines()[0]}'
        ) from error


def as_timeout(seconds: float | None) -> timedelta | None:
    """Convert ``env_cfg.dist_cfg.timeout``.

    Raises:
        UserError: It is no positive number.
    """
    if seconds is None:
        return None
    if isinstance(seconds, bool) or not (
        isinstance(seconds, (int, float)) and seconds > 0
    ):
        raise UserError(
            'env_cfg.dist_cfg.timeout must be a positive number of seconds, '
            f'got {seconds!r}'
        )
    return timedelta(seconds=seconds)


def _is_communication(error):
    if isinstance(error, UserError):
        return False
    is_known = isinstance(
        error, (dist.DistBackendError, dist.DistNetworkError)
    )
    return is_known or any(sign in str(error) for sign in _SIGNS)


def _find_lost():
    """Return descriptions of the silent processes, and the lowest other."""
    store = _store()
    store.set(_key('alive'), 'yes')
    ranks = range(get_world_size())
    end = time.monotonic() + _WAIT
    while True:
        silent = [r for r in ranks if not store.check([_key('alive', r)])]
        if not silent or time.monotonic() > end:
            break
        time.sleep(0.2)
    names = [
        store.get(_key('name', rank)).decode()
        if store.check([_key('name', rank)])
        else 'unknown'
        for rank in silent
    ]
    lost = [f'rank {r} ({n})' for r, n in zip(silent, names, strict=True)]
    return lost, min(set(ranks) - set(silent))


def _key(kind, rank=None):
    return f'clouds_mmseg/{kind}/{get_rank() if rank is None else rank}'


def _store():
    # torch has no public way to it.
    return dist.distributed_c10d._get_default_store()
