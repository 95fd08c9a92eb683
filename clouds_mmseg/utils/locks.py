"""Locks between the processes of a machine."""

import errno
from pathlib import Path

from filelock import FileLock, Timeout

# What file systems without locks answer; no check is possible there.
_NO_LOCKS = {
    errno.EINVAL,
    errno.ENOLCK,
    errno.ENOSYS,
    errno.ENOTSUP,
    errno.EOPNOTSUPP,
}


class ProcessLock:
    """A lock on a file of its own, which ends with the process that holds it.

    A process that is killed leaves the file and not the lock: the next one
    gets it. On a file system without locks everybody gets it.

    Args:
        path: The lock file.
    """

    def __init__(self, path: Path):
        self.path = path
        self._lock = FileLock(str(path))

    def acquire(self, *, wait: bool) -> bool:
        """Take the lock.

        Args:
            wait: For the process that holds it, in place of giving up.

        Returns:
            Whether this process has the lock.

        Raises:
            OSError: The lock file cannot be written.
        """
        while True:
            try:
                self._lock.acquire(timeout=-1 if wait else 0)
            except Timeout:
                return False
            except NotImplementedError:
                return True
            except OSError as error:
                if error.errno in _NO_LOCKS:
                    return True
                raise
            # Its last owner may have removed the file before it was locked.
            if self.path.exists():
                return True
            self._lock.release()

    def release(self, *, remove: bool = False) -> None:
        """Give the lock back; a second call does nothing.

        Args:
            remove: Delete the lock file too.
        """
        if remove:
            self.path.unlink(missing_ok=True)
        self._lock.release()
