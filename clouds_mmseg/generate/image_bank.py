"""Image banks: generated image sets, written by one or more processes.

An image bank is a folder with ``bank.json`` (the recipe: everything that the
images depend on), the images, and ``manifest.jsonl`` with one entry per
image. While images are being added, each process appends its entries to a
shard file of its own; :meth:`ImageBank.finish` merges these.
"""

import errno
import hashlib
import json
import logging
import os
import stat
from collections.abc import Container, Iterable, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from mmengine import fileio
from mmengine.logging import print_log

from clouds_mmseg.utils.atomic import (
    atomic_path,
    create_file,
    leftovers,
    remove_abandoned,
)
from clouds_mmseg.utils.errors import (
    GenerationError,
    OutputLockedError,
    naming,
)
from clouds_mmseg.utils.image_set import (
    BANK_FILE,
    FORMAT,
    IMAGE_FOLDER,
    LABEL_FOLDER,
    MANIFEST_FILE,
    SHARD_FOLDER,
    TRAINING_FOLDER,
    read_bank,
    read_entries,
    sha256_of,
)
from clouds_mmseg.utils.locks import ProcessLock
from clouds_mmseg.utils.packed_set import refuse_packed

# Characters of a value in a message.
_LENGTH = 70
# Keys that recipes of the first versions lack; absent means unknown there.
_ADDED_LATER = {'variant', 'safety_checker'}
_NAMES = {
    'fingerprint': 'fingerprint (the files of the model have changed)',
    'threads': 'threads (rounding depends on it)',
    'batch_size': 'batch_size (rounding depends on it)',
}
# Entries of the info that images depend on slightly.
_VERSIONS = ('torch', 'diffusers', 'transformers', 'device')
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
# Rank, number of processes, rank on this machine: torchrun and accelerate;
# Slurm's srun (SLURM_NTASKS is set in a batch script's own process too, which
# is alone, so the number of the step is what counts); Open MPI; MPICH.
_LAUNCHERS = (
    ('RANK', 'WORLD_SIZE', 'LOCAL_RANK'),
    ('SLURM_PROCID', 'SLURM_STEP_NUM_TASKS', 'SLURM_LOCALID'),
    (
        'OMPI_COMM_WORLD_RANK',
        'OMPI_COMM_WORLD_SIZE',
        'OMPI_COMM_WORLD_LOCAL_RANK',
    ),
    ('PMI_RANK', 'PMI_SIZE', 'MPI_LOCALRANKID'),
)


class ImageBank:
    """An image bank that is opened for adding images.

    Args:
        root: Folder; created if it does not exist.
        recipe: What the images depend on; JSON values. An existing bank must
            have the same.
        info: Further information; not compared.
        num: Number of images. A bank can grow, but never shrinks.
        writer: Name of this process among those that write; None if
            :meth:`join` will tell.

    Raises:
        GenerationError: The folder holds an image bank of another recipe,
            or files but no image bank, or cannot be written.
    """

    def __init__(
        self,
        root: str | Path,
        recipe: dict,
        *,
        info: dict,
        num: int,
        writer: str | None = 'rank-00000',
    ):
        self.root = Path(root)
        # Path or address that readers know it by.
        self.place: Path | str = self.root
        # Through JSON and back: tuples become the lists that files hold.
        self.recipe = json.loads(json.dumps(recipe))
        self.info = info
        self.num = num
        self._shard: ShardFile | None = None
        with self._explained():
            self._open()
        if writer is not None:
            self.join(writer)

    def join(self, writer: str) -> None:
        """Begin to write; the image bank grows to the number of images.

        Args:
            writer: Name of this process among those that write.

        Raises:
            GenerationError: The folder cannot be written.
        """
        self.writer = writer
        with self._explained():
            if read_bank(self.place)['num'] < self.num:
                self._write_file(BANK_FILE, self._encoded())

    def begin(self) -> None:
        """Lock the shard of this process, before the first image is added.

        Raises:
            OutputLockedError: Another process of the same name is writing.
            GenerationError: The folder cannot be written.
        """
        for key in _VERSIONS:
            before, now = self.before.get(key), self.info.get(key)
            if before != now and None not in (before, now):
                print_log(
                    f'the image bank {self.place} was begun with {key} '
                    f'{before}, the rest of it is made with {now}: its '
                    'images may differ in more than rounding',
                    logger='current',
                    level=logging.WARNING,
                )
        with self._explained():
            self._shard = ShardFile(
                self.root / SHARD_FOLDER / f'{self.writer}.jsonl'
            )

    def _open(self):
        refuse_packed(self.place)
        path = os.path.join(self.place, BANK_FILE)
        if not fileio.exists(path):
            # Checked again: another process may just have created it.
            if self._holds_files() and not fileio.exists(path):
                raise GenerationError(
                    f'{self.place} holds files but no image bank '
                    f'({BANK_FILE}). Name a new or empty folder.'
                )
            self._create(self._encoded())
        found = read_bank(self.place)
        self.before = found.get('info') or {}
        problems = recipe_differences(found['recipe'], self.recipe)
        if problems:
            raise GenerationError(
                f'the image bank {self.place} was made otherwise:\n'
                + '\n'.join(f'  {line}' for line in problems)
                + '\nRun the command that it was made with, or write to '
                'another folder, or delete this one.'
            )

    def _holds_files(self):
        return self.root.is_dir() and any(
            not path.name.startswith('.') for path in self.root.iterdir()
        )

    def _create(self, content):
        """Write the recipe, unless another process does so first."""
        self.root.mkdir(parents=True, exist_ok=True)
        create_file(self.root / BANK_FILE, content)

    def _encoded(self):
        content = dict(
            format=FORMAT, num=self.num, recipe=self.recipe, info=self.info
        )
        text = json.dumps(content, indent=1, ensure_ascii=False)
        return f'{text}\n'.encode()

    def entries(self) -> dict[int, dict]:
        """Return index -> entry of the images that were made."""
        with self._explained():
            return read_entries(self.place)

    def done(
        self,
        indices: Iterable[int] | None = None,
        entries: Mapping[int, dict] | None = None,
        *,
        labels: bool = False,
        verify: bool = False,
    ) -> set[int]:
        """Return the indices of the images whose entry and files exist.

        Args:
            indices: Of the images that are looked at; by default all.
            entries: Of :meth:`entries`, if they were read before.
            labels: Whether an image counts only with its label.
            verify: Whether to compare hashes instead of file sizes.
        """
        if entries is None:
            entries = self.entries()
        with self._explained():
            return {
                index
                for index in (entries if indices is None else indices)
                if index in entries
                and self._whole(entries[index], labels, verify)
            }

    def _whole(self, entry, labels, verify):
        hashes = {entry['file']: entry['sha256']}
        others = []
        if 'label' in entry:
            hashes[entry['label']] = entry['label_sha256']
            others.append(entry['label'])
        if labels:
            others.append(entry.get('evaluation_label'))
        if self._size(entry['file']) != entry['bytes'] or any(
            name is None or self._size(name) is None for name in others
        ):
            return False
        return not verify or all(
            self._hash(name) == digest for name, digest in hashes.items()
        )

    def _size(self, name):
        """Return the bytes of a file; None if there is none."""
        try:
            found = (self.root / name).stat()
        except OSError:
            return None
        return found.st_size if stat.S_ISREG(found.st_mode) else None

    def _hash(self, name):
        return sha256_of(self.root / name)

    def add(
        self,
        index: int,
        payload: bytes,
        entry: dict,
        *,
        label: bytes | None = None,
        training_label: bytes | None = None,
    ) -> None:
        """Write an image and its entry.

        Args:
            index: Number of the image.
            payload: The encoded PNG.
            entry: Of the manifest; the files and labels are added here.
            label: The encoded label, for evaluation.
            training_label: The encoded label map that made the image.

        Raises:
            GenerationError: The disk is full or fails.
        """
        if self._shard is None:
            self.begin()
        name = image_name(index)
        entry = dict(index=index, file=f'{IMAGE_FOLDER}/{name}', **entry)
        with self._explained():
            self._write_file(entry['file'], payload)
            if label is not None:
                entry['evaluation_label'] = f'{LABEL_FOLDER}/{name}'
                self._write_file(entry['evaluation_label'], label)
            if training_label is not None:
                entry['label'] = f'{TRAINING_FOLDER}/{name}'
                entry['label_sha256'] = hashlib.sha256(
                    training_label
                ).hexdigest()
                self._write_file(entry['label'], training_label)
            assert self._shard is not None
            self._shard.append(entry)

    def _write_file(self, name, payload):
        with atomic_path(self.root / name) as temporary:
            temporary.write_bytes(payload)

    def sweep(self, indices: Container[int]) -> None:
        """Remove the temporary files that a killed process left behind.

        Args:
            indices: Images of this process, which no other process writes.
        """
        for folder in (IMAGE_FOLDER, LABEL_FOLDER, TRAINING_FOLDER):
            for path in leftovers(self.root / folder / '*.png'):
                number = path.name[1:].split('-')[0]
                if number.isdigit() and int(number) in indices:
                    path.unlink(missing_ok=True)

    def finish(self) -> bool:
        """Merge the shards into one manifest if every image exists.

        Processes that finish at the same time write the same manifest, so
        the files do not depend on the number of processes.

        Returns:
            Whether the bank is complete.
        """
        with self._explained():
            entries = read_entries(self.place)
            if not set(range(read_bank(self.place)['num'])) <= set(entries):
                return False
            self._write_manifest(entries)
            self.discard()
            return True

    def discard(self) -> None:
        """Delete the shard of this process, and those of no process.

        Their entries are in the manifest.
        """
        # Of a process that was killed when it began the set.
        remove_abandoned(leftovers(self.root / BANK_FILE))
        if self._shard is not None:
            self._shard.remove()
        if (self.root / SHARD_FOLDER).is_dir():
            remove_idle(self.root / SHARD_FOLDER)

    def _write_manifest(self, entries):
        """Write the manifest if it changes.

        A complete bank may be on a read-only disk.
        """
        path = os.path.join(self.place, MANIFEST_FILE)
        payload = b''.join(encode_entry(e) for e in entries.values())
        if fileio.isfile(path) and fileio.get(path) == payload:
            return
        self._write_file(MANIFEST_FILE, payload)

    def publish(self) -> None:
        """Let other processes see the entries of this one.

        In a folder they always do.
        """

    def close(self) -> None:
        """Release the lock on the shard of this process."""
        if self._shard is not None:
            self._shard.close()

    @contextmanager
    def _explained(self):
        """Turn an OSError into a GenerationError with a remedy."""
        try:
            yield
        except OSError as error:
            if error.errno in _FULL:
                raise GenerationError(
                    f'the disk of {self.place} is full ({error.strerror}). '
                    'Every image in the manifest is whole. Make room and run '
                    'the same command again: it continues.'
                ) from error
            raise GenerationError(
                f'the image bank {self.place} cannot be written: {error}'
            ) from error


def image_name(index: int) -> str:
    """Return the file name of an image."""
    return f'{index:06d}.png'


def encode_entry(entry: dict) -> bytes:
    """Return a line of a manifest, UTF-8 with its newline."""
    return (json.dumps(entry, ensure_ascii=False) + '\n').encode()


def recipe_differences(found: dict, requested: dict) -> list[str]:
    """Describe the differences of two recipes, one line each.

    Args:
        found: Recipe of the bank on disk.
        requested: Recipe of this command.
    """
    lines = []
    for key in dict.fromkeys((*found, *requested)):
        old, new = found.get(key), requested.get(key)
        if old == new or (key in _ADDED_LATER and key not in found):
            continue
        if key == 'prompts' and old and new:
            lines.append(_prompts(old, new))
            continue
        name = _NAMES.get(key, key)
        lines.append(
            f'{name}: the image bank has {_short(old)}, now {_short(new)}'
        )
    return lines


def _prompts(old, new):
    for number, (a, b) in enumerate(zip(old, new, strict=False), 1):
        if a != b:
            return (
                f'prompts: prompt {number} is {_short(a)} in the image '
                f'bank, now {_short(b)}'
            )
    return f'prompts: the image bank has {len(old)} of them, now {len(new)}'


def _short(value):
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _LENGTH else text[: _LENGTH - 3] + '...'


class ShardFile:
    """File of manifest entries, each synced to disk when it is appended.

    It has a lock, so that the same command started twice fails instead of
    doing the work twice. An incomplete last line, left by a killed process,
    is cut off.

    Args:
        path: The file; its folder is created.

    Raises:
        OutputLockedError: Another process has it open.
    """

    def __init__(self, path: Path):
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = lock_of(path)
        if not self._lock.acquire(wait=False):
            raise OutputLockedError(
                f'another process is writing {path}. Wait for it or stop it; '
                'processes that share the work need different ranks '
                '(torchrun and srun set them, or use --shard K/N).'
            )
        with ExitStack() as undo, naming(path):
            undo.callback(self._lock.release)
            # Unbuffered: after a failed write, closing writes nothing more.
            self._stream = open(
                os.open(path, os.O_RDWR | os.O_CREAT, 0o666), 'r+b', 0
            )
            undo.callback(self._stream.close)
            content = self._stream.read()
            self._end = content.rfind(b'\n') + 1
            self._stream.truncate(self._end)
            undo.pop_all()

    def append(self, entry: dict) -> None:
        """Write a dict as one line and sync it to disk.

        Raises:
            OSError: The line could not be written; the file is as before,
                or, if it cannot be cut off either, may have a part of it.
        """
        line = (json.dumps(entry, ensure_ascii=False) + '\n').encode()
        try:
            with naming(self.path):
                self._stream.seek(self._end)
                written = 0
                while written < len(line):
                    written += self._stream.write(line[written:])
                os.fsync(self._stream.fileno())
        except OSError:
            # The first error is the one to tell; the next process cuts off
            # what is left.
            with suppress(OSError):
                self._stream.truncate(self._end)
            raise
        self._end += len(line)

    def remove(self) -> None:
        """Delete the file."""
        self.path.unlink(missing_ok=True)
        self._stream.close()
        self._lock.release(remove=True)

    def close(self) -> None:
        """Release the lock. A second call does nothing."""
        self._stream.close()
        self._lock.release()


def lock_of(shard: Path) -> ProcessLock:
    """Return the lock of a shard file."""
    return ProcessLock(shard.with_suffix('.lock'))


def remove_idle(folder: Path) -> None:
    """Delete the shards that no process is writing, then the folder.

    Args:
        folder: Of shards whose entries are in the manifest.
    """
    # A process that closed its shard, or was killed, has left the lock file.
    for shard in {path.with_suffix('.jsonl') for path in folder.glob('*.*')}:
        lock = lock_of(shard)
        if lock.acquire(wait=False):
            shard.unlink(missing_ok=True)
            lock.release(remove=True)
    try:
        folder.rmdir()
    except OSError:
        # Another process still has its shard there, and removes it itself.
        pass


class Shard(NamedTuple):
    """The share of one of several processes.

    Attributes:
        rank: Number of the process, from 0.
        world: Number of processes.
        local: Rank on its machine, which selects the device.
    """

    rank: int = 0
    world: int = 1
    local: int = 0

    @property
    def writer(self) -> str:
        """Name of the file to which the process writes its entries."""
        return f'rank-{self.rank:05d}'

    def owns(self, unit: int) -> bool:
        """Tell whether a unit of work, from 0, belongs to this process."""
        return unit % self.world == self.rank


def shard_from_environment(environ: Mapping[str, str] = os.environ) -> Shard:
    """Read the share of this process from the variables of its launcher.

    A process without launcher has all of the work.

    Raises:
        GenerationError: A launcher's variables contradict each other.
    """
    for names in _LAUNCHERS:
        rank, world, local = (environ.get(name) for name in names)
        if rank is None or world is None:
            continue
        try:
            shard = Shard(int(rank), int(world), int(local or 0))
        except ValueError:
            shard = None
        if shard is None or not 0 <= shard.rank < shard.world:
            raise GenerationError(
                f'{names[0]}={rank} and {names[1]}={world} of the environment '
                'must be integers with 0 <= rank < number of processes. '
                'Unset them to run as one process.'
            )
        return shard
    return Shard()


def parse_shard(text: str) -> Shard:
    """Parse ``K/N``: share K, from 0, of N.

    Raises:
        GenerationError: It is written otherwise or out of range.
    """
    try:
        rank, world = (int(part) for part in text.split('/'))
    except ValueError:
        rank, world = -1, 0
    if not 0 <= rank < world:
        raise GenerationError(
            f'--shard {text!r} must be K/N with 0 <= K < N, for example 0/4 '
            'for the first of four'
        )
    return Shard(rank, world, 0)
