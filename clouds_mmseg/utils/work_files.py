"""Files through which processes share work, in a folder or in a store.

Both kinds offer what :class:`~clouds_mmseg.utils.shared_work.SharedWork`
needs of them: files that only one process can create, a list of what is
there, and leases.

A lease is a file that its holder renews three times in its time. Others take
it over when it has not changed for that time by their own monotonic clock, so
that clocks of machines, or of a store, may differ.
"""

import json
import os
import secrets
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import NamedTuple

from filelock import SoftFileLease, Timeout
from mmengine import fileio

from clouds_mmseg.utils import remote
from clouds_mmseg.utils.atomic import (
    create_file,
    leftovers,
    remove_abandoned,
)
from clouds_mmseg.utils.errors import UserError, naming

LEASE_SUFFIX = '.lease'
# Whose clients create a file only if it is not there, in one request.
_EXCLUSIVE = ('s3', 's3a', 'gs', 'gcs', 'az', 'abfs', 'abfss')


class Held(NamedTuple):
    """A lease that this process has.

    Attributes:
        name: Of what it holds.
        again: Whether another process had it and did not end its work.
        release: Gives it back; never raises.
    """

    name: str
    again: bool
    release: Callable[[], None]


def work_files(root: str, lease: float) -> 'FolderFiles | StoreFiles':
    """Open the files below a folder or an address.

    Args:
        root: The folder or address.
        lease: Seconds after which a lease that is not renewed is taken over.
    """
    if remote.is_address(root):
        return StoreFiles(root, lease)
    return FolderFiles(Path(root), lease)


class FolderFiles:
    """Files of a folder that all processes have.

    Names are relative to it, with ``/``.

    Args:
        root: The folder.
        lease: See :func:`work_files`.
    """

    def __init__(self, root: Path, lease: float):
        self.root = root
        self.lease = lease
        self._watched: dict[Path, SoftFileLease] = {}
        self._empty: dict[Path, tuple[tuple[int, int], float]] = {}

    def where(self, name: str = '') -> str:
        """Return the path of a file."""
        return str(self.root / name)

    def prepare(self, folder: str = '') -> None:
        """Make a folder.

        Raises:
            OSError: It cannot be made.
        """
        (self.root / folder).mkdir(parents=True, exist_ok=True)

    def names(self, folder: str = '') -> dict[str, str]:
        """List a folder; one that does not exist is empty.

        Returns:
            Name -> version of the file, where :meth:`take` needs it.
        """
        try:
            return dict.fromkeys(os.listdir(self.root / folder), '')
        except FileNotFoundError:
            return {}

    def exists(self, name: str) -> bool:
        """Tell whether there is a file."""
        return (self.root / name).is_file()

    def read(self, name: str) -> bytes:
        """Read a file.

        Raises:
            FileNotFoundError: There is none.
        """
        return (self.root / name).read_bytes()

    def create(self, name: str, content: bytes) -> bool:
        """Create a file whole; False if another process has done so.

        Raises:
            FileNotFoundError: Its folder has been removed.
            OSError: It cannot be written.
        """
        return create_file(self.root / name, content)

    def remove(self, folder: str, names: Iterable[str]) -> None:
        """Remove files of a folder; what is not there is passed over.

        So are temporary files of processes that were killed when they began
        a job.
        """
        for name in names:
            (self.root / folder / name).unlink(missing_ok=True)
        remove_abandoned(leftovers(self.root / '*.json'))

    def remove_folder(self, folder: str) -> None:
        """Remove a folder with what is in it."""
        shutil.rmtree(self.root / folder, ignore_errors=True)

    def take(
        self, folder: str, names: Sequence[str], there: Mapping[str, str]
    ) -> Held | None:
        """Take the first lease that is free or forgotten.

        A holder of this machine that has ended is known to filelock at once.

        Args:
            folder: Of the leases.
            names: Without suffix.
            there: What :meth:`names` has just found in the folder.

        Returns:
            The lease; None if others have them all.

        Raises:
            OSError: It cannot be written.
        """
        for name in names:
            path = self.root / folder / f'{name}{LEASE_SUFFIX}'
            # Kept, because it remembers since when the lease is unchanged.
            lock = self._watched.get(path) or SoftFileLease(
                str(path), lease_duration=self.lease
            )
            again = path.exists()
            try:
                with naming(path):
                    lock.acquire(timeout=0)
            except Timeout:
                self._watched[path] = lock
                self._clear_if_empty(path)
                continue
            except FileNotFoundError:
                # The job has ended, and a later one has begun.
                return None
            self._watched.pop(path, None)
            return Held(name, again, partial(_release, lock))
        return None

    def _clear_if_empty(self, path):
        """Remove a lease whose holder was killed before it wrote its name.

        filelock takes an empty file for the lock of one of its first
        versions, which is never taken over.
        """
        try:
            found = path.stat()
        except FileNotFoundError:
            return
        if found.st_size:
            self._empty.pop(path, None)
            return
        state = (found.st_ino, found.st_mtime_ns)
        before, since = self._empty.setdefault(path, (state, time.monotonic()))
        if before != state:
            del self._empty[path]
        elif time.monotonic() - since >= self.lease:
            del self._empty[path]
            path.unlink(missing_ok=True)


def _release(lock):
    # A lease that cannot be removed is not renewed: others take it over.
    with suppress(OSError):
        lock.release()


class StoreFiles:
    """Objects of a store such as S3.

    A lease is ``NAME.GENERATION.lease``. Who takes it over creates the next
    generation, which only one process can, and so needs nothing of a store
    but creation of what is not there.

    Args:
        root: Address.
        lease: See :func:`work_files`.
    """

    def __init__(self, root: str, lease: float):
        self.root = root.rstrip('/')
        self.lease = lease
        # Of each lease of others: its version, and since when it is that.
        self._watched: dict[str, tuple[str, float]] = {}

    def where(self, name: str = '') -> str:
        """Return the address of a file."""
        return f'{self.root}/{name}' if name else self.root

    def prepare(self, folder: str = '') -> None:
        """Refuse a store that cannot be used; it needs no folders.

        Raises:
            UserError: It cannot be written, or does not refuse to create a
                file that exists.
        """
        if folder:
            return
        scheme = self.root.partition('://')[0]
        exclusive = scheme in _EXCLUSIVE
        if exclusive:
            name = f'probe-{secrets.token_hex(8)}'
            self.create(name, b'')
            exclusive = not self.create(name, b'')
            self.remove('', [name])
        if not exclusive:
            raise UserError(
                f'{self.root}: processes cannot share work there, as this '
                'store does not refuse to create a file that exists '
                '(conditional writes, If-None-Match of S3). Share it through '
                'a folder, or let one process work without --shared'
            )

    def names(self, folder: str = '') -> dict[str, str]:
        """List the paths below a folder, with versions."""
        return remote.stamps_below(self.where(folder))

    def exists(self, name: str) -> bool:
        """Tell whether there is a file that is not empty.

        In one request: clients ask twice for what is not there, as it might
        be a folder.
        """
        try:
            return bool(remote.read_range(self.where(name), 0, 1))
        except FileNotFoundError:
            return False

    def read(self, name: str) -> bytes:
        """Read a file; FileNotFoundError if there is none."""
        return fileio.get(self.where(name))

    def create(self, name: str, content: bytes) -> bool:
        """Create a file; False if it exists."""
        return remote.create(self.where(name), content)

    def remove(self, folder: str, names: Iterable[str]) -> None:
        """Remove files of a folder; what is not there is passed over."""
        remote.remove(self.where(folder), names)

    def remove_folder(self, folder: str) -> None:
        """Remove a folder with what is in it."""
        self.remove(folder, self.names(folder))

    def take(
        self, folder: str, names: Sequence[str], there: Mapping[str, str]
    ) -> Held | None:
        """Take a lease that nobody has, or one that is forgotten.

        As that of :class:`FolderFiles`.
        """
        newest = _newest(there)
        free = [name for name in names if name not in newest]
        # Not in their order: all processes would try the same ones.
        while free:
            name = free.pop(secrets.randbelow(len(free)))
            held = self._create(folder, name, 1)
            if held is not None:
                return held
        for name in names:
            if name in newest and self._forgotten(folder, name, newest[name]):
                generation = newest[name][0]
                held = self._create(folder, name, generation + 1)
                if held is not None:
                    self.remove(folder, [_lease_name(name, generation)])
                    return held
        return None

    def _forgotten(self, folder, name, found):
        """Tell whether a lease has not changed for its time."""
        key, now = f'{folder}/{name}', time.monotonic()
        state = f'{found[0]} {found[1]}'
        before, since = self._watched.setdefault(key, (state, now))
        if before != state:
            self._watched[key] = (state, now)
            return False
        return now - since >= self.lease

    def _create(self, folder, name, generation):
        file = f'{folder}/{_lease_name(name, generation)}'
        if not self.create(file, _stamp()):
            return None
        self._watched.pop(f'{folder}/{name}', None)
        ended = threading.Event()
        thread = threading.Thread(
            target=self._renew, args=(file, ended), daemon=True
        )
        thread.start()

        def release():
            ended.set()
            thread.join()
            with suppress(OSError, UserError):
                self.remove('', [file])

        return Held(name, generation > 1, release)

    def _renew(self, file, ended):
        """Write a lease anew until it is given back or taken over."""
        while not ended.wait(self.lease / 3):
            # If this fails, it is tried again; others may take over.
            with suppress(OSError, UserError):
                if not self.exists(file):
                    return
                fileio.put(_stamp(), self.where(file))


def _newest(there):
    """Return name -> generation and version of the newest lease."""
    newest: dict[str, tuple[int, str]] = {}
    for file, version in there.items():
        if file.endswith(LEASE_SUFFIX):
            name, generation = file.removesuffix(LEASE_SUFFIX).split('.')
            found = (int(generation), version)
            newest[name] = max(found, newest.get(name, found))
    return newest


def _lease_name(name, generation):
    return f'{name}.{generation}{LEASE_SUFFIX}'


def _stamp():
    """Return content that no lease has had, so that its version changes."""
    stamp = dict(
        host=socket.gethostname(), pid=os.getpid(), stamp=secrets.token_hex(8)
    )
    return json.dumps(stamp).encode()
