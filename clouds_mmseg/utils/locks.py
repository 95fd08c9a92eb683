"""Locks between the processes of a machine."""

import contextlib
import errno
import os
from pathlib import Path

from filelock import FileLock, Timeout

try:
    import fcntl
except ImportError:
    # Windows, where filelock knows another way.
    fcntl = None  # type: ignore[assignment]

# What file systems without locks answer; no check is possible there.
NO_LOCKS = {
    errno.EINVAL,
    errno.ENOLCK,
    errno.ENOSYS,
    errno.ENOTSUP,
    errno.EOPNOTSUPP,
}
# Descriptors of locked files, which a forked process must not keep open: a
# lock would end with the last of both, and the workers of a data loader live
# for seconds after a kill.
_held: set[int] = set()


def _close_inherited():
    while _held:
        os.close(_held.pop())


if hasattr(os, 'register_at_fork'):
    os.register_at_fork(after_in_child=_close_inherited)


def open_locked(path: str | Path, *, wait: bool = False) -> int | None:
    """Open a file and lock it, until :func:`close_locked` or the end.

    Args:
        path: The file; created if needed, readable by its owner alone. It
            may be removed by who has the lock.
        wait: For the process that has it, in place of giving up.

    Returns:
        Its descriptor; None if another has the lock.

    Raises:
        OSError: The file cannot be opened, or not be locked (``NO_LOCKS``).
    """
    if fcntl is None:
        raise OSError(errno.ENOSYS, 'this system has no flock', str(path))
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW
    while True:
        descriptor = os.open(path, flags, 0o600)
        _held.add(descriptor)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (not wait) * fcntl.LOCK_NB)
            # Its last owner may have removed the file before it was locked.
            if os.path.samestat(os.fstat(descriptor), os.lstat(path)):
                return descriptor
        except BlockingIOError:
            close_locked(descriptor)
            return None
        except FileNotFoundError:
            pass
        except OSError as error:
            close_locked(descriptor)
            error.filename = error.filename or str(path)
            raise
        close_locked(descriptor)


def close_locked(descriptor: int) -> None:
    """Close what :func:`open_locked` returned; its lock ends."""
    # A forked process has closed it already.
    if descriptor in _held:
        _held.discard(descriptor)
        os.close(descriptor)


class ProcessLock:
    """A lock on a file of its own, which ends with the process that holds it.

    A process that is killed leaves the file and not the lock: the next one
    gets it. On a file system without locks everybody gets it.

    Args:
        path: The lock file.
    """

    def __init__(self, path: Path):
        self.path = path
        self._lock = FileLock(str(path)) if fcntl is None else None
        self._descriptor: int | None = None

    def acquire(self, *, wait: bool) -> bool:
        """Take the lock.

        Args:
            wait: For the process that holds it, in place of giving up.

        Returns:
            Whether this process has the lock.

        Raises:
            OSError: The lock file cannot be written.
        """
        if self._lock is not None:
            return self._acquire_elsewhere(wait)
        if self._descriptor is not None:
            return True
        try:
            self._descriptor = open_locked(self.path, wait=wait)
        except OSError as error:
            if error.errno in NO_LOCKS:
                return True
            raise
        return self._descriptor is not None

    def _acquire_elsewhere(self, wait):
        while True:
            try:
                self._lock.acquire(timeout=-1 if wait else 0)
            except Timeout:
                return False
            except NotImplementedError:
                return True
            if self.path.exists():
                return True
            self._lock.release()

    def note(self, text: str) -> None:
        """Write who holds the lock into its file, for :meth:`read_note`."""
        if self._descriptor is None:
            return
        # It is of use to people alone: not on a full disk.
        with contextlib.suppress(OSError):
            os.ftruncate(self._descriptor, 0)
            os.pwrite(self._descriptor, text.encode(), 0)

    def read_note(self) -> str:
        """Return what the process that holds the lock has noted."""
        try:
            return self.path.read_text(errors='replace').strip()
        except OSError:
            return ''

    def release(self, *, remove: bool = False) -> None:
        """Give the lock back; a second call does nothing.

        Args:
            remove: Delete the lock file too.
        """
        if remove:
            # A disk that has become read-only keeps the file, not the lock.
            with contextlib.suppress(OSError):
                self.path.unlink(missing_ok=True)
        if self._lock is not None:
            self._lock.release()
        elif self._descriptor is not None:
            close_locked(self._descriptor)
            self._descriptor = None
