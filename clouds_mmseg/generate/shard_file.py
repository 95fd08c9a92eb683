"""A file of JSON lines that one process appends to."""

import json
import os

from clouds_mmseg.generate.errors import BankBusyError

try:
    import fcntl
except ImportError:  # Windows: two processes of one rank go unnoticed.
    fcntl = None


class ShardFile:
    """Appends entries, each of them on disk before the call returns.

    The file is locked, so that the same command started twice fails instead
    of doing the work twice. What a kill left of a last line is cut off.

    Args:
        path (Path): The file; its folder is made.

    Raises:
        BankBusyError: Another process has it open.
    """

    def __init__(self, path):
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._stream = open_locked(path)
        if self._stream is None:
            raise BankBusyError(
                f'another process is writing {path}. Wait for it or stop it; '
                'processes that share the work need different ranks '
                '(torchrun and srun set them, or use --shard K/N).'
            )
        content = self._stream.read()
        self._end = content.rfind(b'\n') + 1
        self._stream.truncate(self._end)

    def append(self, entry):
        """Write a dict as one line and flush it to the disk.

        Raises:
            OSError: It could not be written whole; the file is as before.
        """
        line = (json.dumps(entry, ensure_ascii=False) + '\n').encode()
        try:
            self._stream.seek(self._end)
            written = 0
            while written < len(line):
                written += self._stream.write(line[written:])
            os.fsync(self._stream.fileno())
        except OSError:
            self._stream.truncate(self._end)
            raise
        self._end += len(line)

    def remove(self):
        """Delete the file."""
        self.path.unlink(missing_ok=True)
        self.close()

    def close(self):
        """Give up the lock. A second call does nothing."""
        self._stream.close()


def open_locked(path):
    """Open a file for reading and writing and lock it.

    Returns:
        io.FileIO | None: Unbuffered, so that a failed write leaves nothing
        behind that closing would write; None if another process has it.
    """
    while True:
        stream = open(os.open(path, os.O_RDWR | os.O_CREAT, 0o666), 'r+b', 0)
        try:
            if fcntl is not None:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Between open and lock its owner may have removed the file.
            if os.path.samestat(os.fstat(stream.fileno()), os.stat(path)):
                return stream
        except BlockingIOError:
            stream.close()
            return None
        except FileNotFoundError:
            pass
        except OSError:
            # A file system without locks: the check is given up.
            return stream
        stream.close()


def remove_idle(folder):
    """Delete the shards that no process is writing, and then the folder.

    Args:
        folder (Path): Holds the shards; their lines are in the manifest.
    """
    for path in folder.glob('*.jsonl'):
        stream = open_locked(path)
        if stream is not None:
            path.unlink(missing_ok=True)
            stream.close()
    try:
        folder.rmdir()
    except OSError:
        # Another process still has its shard there, and removes it itself.
        pass
