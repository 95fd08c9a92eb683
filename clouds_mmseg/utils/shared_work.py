"""Work that any number of processes share through a folder.

The items of a job are cut into chunks, and each process takes the next chunk
that nobody has: there are no ranks, and processes may come and go. A chunk
is held by a lease (:class:`filelock.SoftFileLease`), a file that its holder
renews. Where that stops, others take the chunk over: at once if the holder
was a process of the same machine that has ended, and otherwise when the file
has not changed for as long as the lease lasts, by the monotonic clock of the
one who watches it. So clocks that differ between machines do no harm.

Two processes may then do the same chunk, one of them very late. Work that is
shared must therefore give the same files whoever does it, and write each of
them atomically; only one of them enters the result.

Below the folder, ``.work/COMMAND`` holds ``job-00001.json`` (what the job is;
the next one when it has ended) and ``00001`` with a lease for each chunk in
work, a file for each that is done, and at the end only ``finished.json``.
"""

import json
import os
import secrets
import shutil
import socket
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

from filelock import SoftFileLease, Timeout
from mmengine.logging import print_log

from clouds_mmseg.utils.atomic import (
    create_file,
    leftovers,
    remove_abandoned,
)
from clouds_mmseg.utils.errors import UserError, disk_error, naming

WORK_FOLDER = '.work'
# Longer than the clients of network file systems keep attributes of files
# (NFS: up to 60 s), so that a lease that is renewed does not look forgotten.
LEASE_SECONDS = 120.0
_SHORTEST_LEASE = 1.0
# A chunk costs some milliseconds and two files; each process lists them all.
_MOST_CHUNKS = 1000
_LONGEST_WAIT = 5.0  # Seconds between two looks at the leases of others.
# What the bits of results may depend on.
_PACKAGES = (
    'clouds_mmseg', 'torch', 'torchvision', 'numpy', 'scipy', 'pillow',
    'opencv-python', 'diffusers', 'transformers',
)  # fmt: skip
_LENGTH = 70  # Characters of a value in a message.


class SharedWorkError(UserError):
    """Processes that were started otherwise cannot share one job."""


class ChunksLost(Exception):
    """Raised by what finishes a job: results of chunks are not there.

    Somebody has removed files while the work went on. The chunks are done
    again.

    Args:
        numbers: Of the chunks.
    """

    def __init__(self, numbers: Iterable[int]):
        self.numbers = sorted(set(numbers))
        super().__init__(f'results of {len(self.numbers)} chunks are missing')


class Chunk(NamedTuple):
    """A part of a job.

    Attributes:
        number: From 0.
        begun: Whether another process has begun it and did not end it: some
            of its results may exist.
    """

    number: int
    begun: bool = False


@dataclass
class Share:
    """What a process did of a job.

    Attributes:
        chunks: Number of chunks of the job.
        done: Of them done by this process.
        taken_over: Of those, begun by a process that stopped.
        lost: Chunks that were taken over from this process.
        finished: Whether this process finished the job.
        result: What finishing it returned, in whichever process.
        seconds: That leases, markers and waiting for others took.
    """

    chunks: int
    done: int = 0
    taken_over: int = 0
    lost: int = 0
    finished: bool = False
    result: Any = None
    seconds: float = 0.0

    def __str__(self) -> str:
        parts = [f'{self.done} of {self.chunks} chunks']
        if self.taken_over:
            parts.append(f'{self.taken_over} of them taken over')
        if self.lost:
            parts.append(f'{self.lost} lost to others (longer than the lease)')
        if self.finished:
            parts.append('finished the result')
        return f'this process did {", ".join(parts)}'


def split(items: int, multiple: int = 1) -> list[range]:
    """Cut items into chunks: some 1,000, and not more.

    Args:
        items: Their number.
        multiple: What the size of a chunk is a multiple of.

    Returns:
        Ranges of indices, the last of which may be shorter.
    """
    units = -(-items // multiple)
    size = multiple * max(1, -(-units // _MOST_CHUNKS))
    return [
        range(start, min(start + size, items))
        for start in range(0, items, size)
    ]


class SharedWork:
    """A job in a folder that processes share.

    Args:
        folder: That of the result; created if needed.
        command: Name of the command.
        arguments: What the results depend on; JSON values. Processes with
            others, or with other versions of packages, are refused.
        chunks: Number of chunks.
        lease: Seconds after which a chunk is taken over from a process that
            does not renew its lease, for example because its machine is
            gone.

    Raises:
        SharedWorkError: An unfinished job with other arguments or versions
            is there, or the folder cannot be written.
    """

    def __init__(
        self,
        folder: str | Path,
        command: str,
        arguments: Mapping[str, Any],
        *,
        chunks: int,
        lease: float = LEASE_SECONDS,
    ):
        if lease < _SHORTEST_LEASE:
            raise UserError(
                f'--lease {lease:g} must be at least {_SHORTEST_LEASE:g} '
                'seconds'
            )
        self.root = Path(folder, WORK_FOLDER, command)
        self.chunks = chunks
        self.lease = float(lease)
        self.worker = (
            f'{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(3)}'
        )
        self._watched: dict[str, SoftFileLease] = {}
        self._empty: dict[Path, tuple[tuple[int, int], float]] = {}
        job = dict(
            {k: v for k, v in arguments.items() if v is not None},
            chunks=chunks,
            lease=self.lease,
            versions=_versions(),
        )
        try:
            self.folder = self._join(json.loads(json.dumps(job)))
        except OSError as error:
            raise SharedWorkError(
                f'{self.root}, through which processes share the work, '
                f'cannot be written: {disk_error(error)}'
            ) from error

    def _join(self, job):
        """Join the job that is going on, or begin one; return its folder."""
        self.root.mkdir(parents=True, exist_ok=True)
        while True:
            files = sorted(self.root.glob('job-*.json'))
            number = int(files[-1].stem.removeprefix('job-')) if files else 0
            if files and not self._finished(number):
                try:
                    self._compare(files[-1], job)
                except FileNotFoundError:
                    # Another process has just begun the next job.
                    continue
                if self._of(number).is_dir():
                    return self._of(number)
                continue
            # Two processes that begin the next job make the same file.
            text = json.dumps(job, indent=1) + '\n'
            self._of(number + 1).mkdir(exist_ok=True)
            if create_file(self._file(number + 1), text.encode()):
                self._forget(files)
                return self._of(number + 1)

    def _file(self, number):
        return self.root / f'job-{number:05d}.json'

    def _of(self, number):
        return self.root / f'{number:05d}'

    def _finished(self, number):
        return (self._of(number) / 'finished.json').is_file()

    def _forget(self, files):
        """Remove jobs that have ended."""
        for file in files:
            file.unlink(missing_ok=True)
            shutil.rmtree(
                self.root / file.stem.removeprefix('job-'), ignore_errors=True
            )

    def _compare(self, file, job):
        try:
            found = json.loads(file.read_text(encoding='utf-8'))
        except ValueError as error:
            raise SharedWorkError(
                f'{file} is damaged ({error}). Stop the processes that share '
                f'this work, delete {self.root} and start them again'
            ) from error
        if found == job:
            return
        lines = [
            f'  {key}: there {_short(old)}, here {_short(new)}'
            for key, old, new in _differences(found, job)
        ]
        raise SharedWorkError(
            f'{self.root.parent.parent} is being made by processes that were '
            'started otherwise:\n'
            + '\n'.join(lines)
            + '\nStart this one as they were. If none of them is running and '
            f'the job is to be given up, delete {self.root}: what was made '
            'is kept.'
        )

    def run(
        self,
        work: Callable[[Chunk], Any],
        finish: Callable[[list], Any],
    ) -> Share:
        """Do chunks until the job is finished, by this process or another.

        A process that has nothing left to do waits for the others, in order
        to take over the chunks of those that stop.

        Args:
            work: Does a chunk. Returns a JSON value. An exception ends this
                process's part, unless another has done the chunk meanwhile;
                others may try it.
            finish: Called by one process when all chunks are done, with what
                ``work`` returned of each; what it returns, a JSON value, all
                processes get. If that process dies, by another one again.
                :class:`ChunksLost` has chunks done again, once.

        Returns:
            What this process did.

        Raises:
            SharedWorkError: This process was stopped for so long that others
                have finished the job and begun another.
        """
        share = Share(self.chunks)
        begun = time.monotonic()
        busy = 0.0
        lost = False
        while not self._ended():
            done = self._done()
            free = [n for n in range(self.chunks) if n not in done]
            chosen = self._take(free) if free else self._take([None])
            if chosen is None:
                # Others have the rest.
                time.sleep(min(_LONGEST_WAIT, self.lease / 10))
                continue
            number, again, lock = chosen
            start = time.monotonic()
            try:
                if number is None:
                    share.finished = self._finish(finish)
                elif number not in self._done():
                    self._do(Chunk(number, again), work, share)
            except ChunksLost as error:
                if lost:
                    raise SharedWorkError(
                        f'{self.root.parent.parent}: {error}, although they '
                        'were done again: does something remove files there?'
                    ) from error
                lost = True
                for number in error.numbers:
                    self._marker(number).unlink(missing_ok=True)
            finally:
                busy += time.monotonic() - start
                # A lease that cannot be removed is not renewed: others take
                # it over.
                with suppress(OSError):
                    lock.release()
        share.seconds = time.monotonic() - begun - busy
        try:
            end = json.loads((self.folder / 'finished.json').read_bytes())
        except FileNotFoundError as error:
            raise SharedWorkError(
                f'the work in {self.folder} was finished by others long ago, '
                'and another job has begun there since'
            ) from error
        share.result = end['result']
        return share

    def _do(self, chunk, work, share):
        try:
            result = work(chunk)
        except Exception as error:
            if not self._ended() and chunk.number not in self._done():
                raise
            print_log(
                f'chunk {chunk.number} was done by another process while '
                f'this one failed to ({type(error).__name__}: {error})',
                logger='current',
            )
            share.lost += 1
            return
        if self._create(self._marker(chunk.number), result):
            share.done += 1
            share.taken_over += chunk.begun
        else:
            share.lost += 1

    def _create(self, path, content):
        """Create a file of JSON; False if another process has been faster.

        The one that ends the job removes all files but its own, also what
        a process that it took for dead is just writing.
        """
        if self._ended():
            return False
        try:
            return create_file(path, json.dumps(content).encode())
        except FileNotFoundError:
            if not self._ended():
                raise
            return False

    def _take(self, numbers: Sequence[int | None]):
        """Take the first chunk that is free; None if all have a lease.

        Args:
            numbers: Of the chunks; None is the end of the job.

        Returns:
            The number, whether another process had it, and its lease.
        """
        for number in numbers:
            name = 'finish' if number is None else f'{number:06d}'
            path = self.folder / f'{name}.lease'
            # Kept, because it remembers since when the lease is unchanged.
            lock = self._watched.get(name) or SoftFileLease(
                str(path), lease_duration=self.lease
            )
            again = path.exists()
            try:
                with naming(path):
                    lock.acquire(timeout=0)
            except Timeout:
                self._watched[name] = lock
                self._clear_if_empty(path)
                continue
            except FileNotFoundError:
                # The job has ended, and a later one has begun.
                return None
            self._watched.pop(name, None)
            return number, again, lock
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

    def _done(self):
        try:
            names = os.listdir(self.folder)
        except FileNotFoundError:
            return set(range(self.chunks))
        return {
            int(name[:-5])
            for name in names
            if name.endswith('.json') and name[:-5].isdigit()
        }

    def _marker(self, number):
        return self.folder / f'{number:06d}.json'

    def _results(self):
        return [
            json.loads(self._marker(number).read_bytes())
            for number in range(self.chunks)
        ]

    def _ended(self):
        return (
            self.folder / 'finished.json'
        ).is_file() or not self.folder.is_dir()

    def _finish(self, finish):
        """Finish the job, mark it as ended and remove its chunks' files.

        Returns:
            Whether this process did; False if another one has.
        """
        if self._ended():
            return False
        try:
            result = finish(self._results())
        except Exception:
            if not self._ended():
                raise
            return False
        name = 'finished.json'
        end = dict(worker=self.worker, time=time.ctime(), result=result)
        if not self._create(self.folder / name, end):
            return False
        # The job has ended, even if the disk keeps what is left of it.
        with suppress(OSError):
            for path in self.folder.iterdir():
                if path.name != name:
                    path.unlink(missing_ok=True)
            remove_abandoned(leftovers(self.root / 'job-*.json'))
        return True


def _versions():
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = None
    return found


def _differences(found, job):
    """Yield key, old and new value; of dicts those of their keys."""
    for key in dict.fromkeys((*found, *job)):
        old, new = found.get(key), job.get(key)
        if isinstance(old, dict) and isinstance(new, dict):
            yield from _differences(old, new)
        elif old != new:
            yield key, old, new


def _short(value):
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _LENGTH else text[: _LENGTH - 3] + '...'
