"""Work that any number of processes share through a folder or a store.

The items of a job are cut into chunks, and each process takes the next chunk
that nobody has: there are no ranks, and processes may come and go. A chunk
is held by a lease, a file that its holder renews. Where that stops, others
take the chunk over: when the file has not changed for as long as the lease
lasts, and in a folder at once if the holder was a process of the same machine
that has ended; see :mod:`~clouds_mmseg.utils.work_files`.

Two processes may then do the same chunk, one of them very late. Work that is
shared must therefore give the same files whoever does it, and write each of
them atomically; only one of them enters the result.

Below the folder or address, ``.work/COMMAND`` holds ``job-00001.json`` (what
the job is; the next one when it has ended) and ``00001`` with a lease for
each chunk in work, a file for each that is done, and at the end only
``finished.json``.
"""

import json
import os
import secrets
import socket
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

from mmengine.logging import print_log

from clouds_mmseg.utils.errors import UserError, disk_error
from clouds_mmseg.utils.work_files import work_files

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
_FINISH = 'finish'  # Name of the lease of the end.
_END = 'finished.json'


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
    """A job that processes share.

    Args:
        folder: That of the result, created if needed, or an address such as
            ``s3://bucket/folder``.
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
        UserError: The store cannot be read, or has no exclusive creation.
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
        self.target = str(folder)
        self.chunks = chunks
        self.lease = float(lease)
        self.worker = (
            f'{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(3)}'
        )
        self.files = work_files(
            f'{self.target.rstrip("/")}/{WORK_FOLDER}/{command}', self.lease
        )
        job = dict(
            {k: v for k, v in arguments.items() if v is not None},
            chunks=chunks,
            lease=self.lease,
            versions=_versions(),
        )
        try:
            number = self._join(json.loads(json.dumps(job)))
        except OSError as error:
            raise SharedWorkError(
                f'{self.files.where()}, through which processes share the '
                f'work, cannot be written: {disk_error(error)}'
            ) from error
        self._folder = _folder(number)
        self._job = _job_file(number)

    @property
    def folder(self) -> str:
        """Path or address of the folder of the chunks."""
        return self.files.where(self._folder)

    def _join(self, job):
        """Join the job that is going on, or begin one; return its number."""
        self.files.prepare()
        while True:
            jobs = sorted(
                int(name[4:-5])
                for name in self.files.names()
                if name.startswith('job-') and name.endswith('.json')
            )
            number = jobs[-1] if jobs else 0
            if jobs and _END not in self.files.names(_folder(number)):
                try:
                    self._compare(number, job)
                except FileNotFoundError:
                    # Another process has just begun the next job.
                    continue
                return number
            # Two processes that begin the next job make the same file.
            text = json.dumps(job, indent=1) + '\n'
            self.files.prepare(_folder(number + 1))
            if self.files.create(_job_file(number + 1), text.encode()):
                for old in jobs:
                    self.files.remove('', [_job_file(old)])
                    self.files.remove_folder(_folder(old))
                return number + 1

    def _compare(self, number, job):
        name, root = _job_file(number), self.files.where()
        try:
            found = json.loads(self.files.read(name))
        except ValueError as error:
            raise SharedWorkError(
                f'{self.files.where(name)} is damaged ({error}). Stop the '
                f'processes that share this work, delete {root} and start '
                'them again'
            ) from error
        if found == job:
            return
        lines = [
            f'  {key}: there {_short(old)}, here {_short(new)}'
            for key, old, new in _differences(found, job)
        ]
        raise SharedWorkError(
            f'{self.target} is being made by processes that were '
            'started otherwise:\n'
            + '\n'.join(lines)
            + '\nStart this one as they were. If none of them is running and '
            f'the job is to be given up, delete {root}: what was made '
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
        while True:
            there = self.files.names(self._folder)
            if self._ended(there):
                break
            free = [
                _chunk(n)
                for n in range(self.chunks)
                if _marker(n) not in there
            ]
            held = self.files.take(self._folder, free or [_FINISH], there)
            if held is None:
                # Others have the rest.
                time.sleep(min(_LONGEST_WAIT, self.lease / 10))
                continue
            start = time.monotonic()
            try:
                if held.name == _FINISH:
                    share.finished = self._finish(finish)
                elif not self._is_done(int(held.name)):
                    self._do(Chunk(int(held.name), held.again), work, share)
            except ChunksLost as error:
                if lost:
                    raise SharedWorkError(
                        f'{self.target}: {error}, although they were done '
                        'again: does something remove files there?'
                    ) from error
                lost = True
                self.files.remove(
                    self._folder, [_marker(number) for number in error.numbers]
                )
            finally:
                busy += time.monotonic() - start
                held.release()
        share.seconds = time.monotonic() - begun - busy
        try:
            end = json.loads(self.files.read(f'{self._folder}/{_END}'))
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
            if not self._is_done(chunk.number):
                raise
            print_log(
                f'chunk {chunk.number} was done by another process while '
                f'this one failed to ({type(error).__name__}: {error})',
                logger='current',
            )
            share.lost += 1
            return
        if self._create(_marker(chunk.number), result):
            share.done += 1
            share.taken_over += chunk.begun
        else:
            share.lost += 1

    def _create(self, name, content):
        """Create a file of JSON; False if another process has been faster.

        The one that ends the job removes all files but its own, also what
        a process that it took for dead is just writing.
        """
        if self._ended():
            return False
        try:
            created = self.files.create(
                f'{self._folder}/{name}', json.dumps(content).encode()
            )
        except FileNotFoundError:
            if not self._ended():
                raise
            return False
        if created and name != _END and self._ended():
            # In a store, where nothing fails, it would stay.
            self.files.remove(self._folder, [name])
            return False
        return created

    def _ended(self, there: Collection[str] = ()):
        """Tell whether the job has ended, perhaps long ago.

        Args:
            there: Names of its folder, if they were just listed.
        """
        if there:
            return _END in there
        # A later job has removed it.
        return self._exists(_END) or not self.files.exists(self._job)

    def _exists(self, name):
        return self.files.exists(f'{self._folder}/{name}')

    def _is_done(self, number):
        return self._exists(_marker(number)) or self._ended()

    def _finish(self, finish):
        """Finish the job, mark it as ended and remove its chunks' files.

        Returns:
            Whether this process did; False if another one has.
        """
        if self._ended():
            return False
        try:
            result = finish(
                [
                    json.loads(self.files.read(f'{self._folder}/{_marker(n)}'))
                    for n in range(self.chunks)
                ]
            )
        except Exception:
            if not self._ended():
                raise
            return False
        end = dict(worker=self.worker, time=time.ctime(), result=result)
        if not self._create(_END, end):
            return False
        # The job has ended, even if the disk keeps what is left of it.
        with suppress(OSError):
            left = set(self.files.names(self._folder)) - {_END}
            self.files.remove(self._folder, left)
        return True


def _job_file(number):
    return f'job-{number:05d}.json'


def _folder(number):
    return f'{number:05d}'


def _chunk(number):
    return f'{number:06d}'


def _marker(number):
    return f'{_chunk(number)}.json'


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
