"""Atomic writes: a kill at any moment leaves the old file or the new one."""

import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from clouds_mmseg.utils.errors import about_file, naming
from clouds_mmseg.utils.locks import NO_LOCKS, close_locked, open_locked

# In the name of a temporary file, in place of the eight random characters of
# tempfile: what a killed process has left is found and written anew by the
# next process that writes the same file.
_USUAL = 'partfile'


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path that becomes ``path`` when the block succeeds.

    The temporary file lies in the same folder, because a rename is atomic
    only inside one file system; it keeps the suffix, because image writers
    choose their format by it. The data is flushed to disk before the rename,
    so that a power cut cannot leave an empty file under the final name.

    Processes may write the same file at the same time: each has a temporary
    file of its own, which is locked while it lives.

    Args:
        path: The final name. Its folder is created if needed.

    Yields:
        The temporary path.

    Raises:
        Exception: Whatever the block raises; the temporary file is removed
            and ``path`` is left as it was. An ``OSError`` names ``path``.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary, descriptor = _temporary_file(path)
    except OSError as error:
        raise about_file(error, path) from None
    try:
        with _naming_final(path, temporary):
            yield temporary
            _finish(temporary)
            rename(temporary, path)
    finally:
        _remove_quietly(temporary)
        close_locked(descriptor)


@contextmanager
def _naming_final(path, temporary):
    """Let errors of the system name a file in place of its temporary one."""
    try:
        yield
    except OSError as error:
        # That of a write names no file at all.
        if error.filename in (None, str(temporary), temporary):
            raise about_file(error, path) from error.__cause__
        raise


def _finish(temporary):
    """Let users read a temporary file, and flush it to the disk."""
    # It was private; what users get follows their umask.
    umask = os.umask(0)
    os.umask(umask)
    os.chmod(temporary, 0o666 & ~umask)
    with open(temporary, 'rb') as stream:
        os.fsync(stream.fileno())


def rename(source: Path, target: Path) -> None:
    """Give a file or folder another name, in place of a file of that name.

    Over NFS the answer to a rename can be lost: the error, of the call or of
    its repetition by the system, is none if the file has its new name.

    Args:
        source: What there is.
        target: On the same file system; no folder with files in it.

    Raises:
        OSError: It has not been renamed.
    """
    before = os.stat(source)
    try:
        os.replace(source, target)
    except OSError:
        if source.exists() or not target.exists():
            raise
        if not os.path.samestat(before, os.stat(target)):
            raise


def _remove_quietly(path):
    """Remove a file, unless the disk refuses, which was told already."""
    try:
        path.unlink(missing_ok=True)
    except OSError:
        pass


def _temporary_file(path):
    """Create the temporary file of a path; return it and its descriptor."""
    usual = path.with_name(f'.{path.stem}-{_USUAL}{path.suffix}')
    descriptor = _lock_own(usual)
    if descriptor is not None:
        os.ftruncate(descriptor, 0)
        return usual, descriptor
    return _unique_file(path)


def _unique_file(path):
    """Create a temporary file that no other process has written."""
    handle, name = tempfile.mkstemp(
        prefix=f'.{path.stem}-', suffix=path.suffix, dir=path.parent
    )
    os.close(handle)
    try:
        return Path(name), open_locked(name) or -1
    except OSError:
        # A file system without locks.
        return Path(name), -1


def _lock_own(path):
    """Open and lock a file; None if that is not possible.

    Another process has it, it belongs to somebody else, or there are no
    locks.
    """
    try:
        descriptor = open_locked(path)
    except OSError as error:
        if error.errno in NO_LOCKS:
            _remove_quietly(path)
            return None
        if isinstance(error, (PermissionError, IsADirectoryError)):
            return None
        raise
    if descriptor is None or os.fstat(descriptor).st_uid == os.geteuid():
        return descriptor
    close_locked(descriptor)
    return None


def create_file(path: str | Path, payload: bytes) -> bool:
    """Write a file whole, unless one of its name exists.

    Of several processes that do so, on any machines, one succeeds.

    Args:
        path: In an existing folder.
        payload: Its content.

    Returns:
        Whether this call made the file.

    Raises:
        OSError: The file cannot be written; it names ``path``.
    """
    path = Path(path)
    try:
        # Not one that a killed process has left: that may be a link to the
        # file.
        temporary, descriptor = _unique_file(path)
    except OSError as error:
        raise about_file(error, path) from None
    try:
        with _naming_final(path, temporary):
            temporary.write_bytes(payload)
            _finish(temporary)
            return _link(temporary, path)
    finally:
        _remove_quietly(temporary)
        close_locked(descriptor)


def _link(temporary, path):
    """Give a file a name; return whether it has got it, and no other file."""
    own = os.stat(temporary)
    try:
        # Unlike a rename, a link fails where the name is taken.
        os.link(temporary, path)
    except OSError as error:
        try:
            # The answer to a link that was done can be lost over NFS.
            return os.path.samestat(own, os.stat(path))
        except FileNotFoundError:
            if isinstance(error, FileExistsError):
                return False
        # This file system has no hard links.
        rename(temporary, path)
    return True


def leftovers(pattern: str | Path) -> list[Path]:
    """Find temporary files that a killed process left beside its targets.

    Args:
        pattern: A final path as given to :func:`atomic_path`, whose name may
            contain ``*``.

    Returns:
        The temporary files, sorted. Another process may still be writing one
        of them: see :func:`remove_abandoned`.
    """
    pattern = Path(pattern)
    name = f'.{pattern.stem}-????????{pattern.suffix}'
    return sorted(pattern.parent.glob(name))


def leftovers_below(folder: Path) -> list[Path]:
    """Find temporary files of any targets; see :func:`leftovers`.

    Args:
        folder: With its sub-folders. Files of the same form of name that
            other programs have made are left out.
    """
    return sorted(folder.rglob(f'.*-{_USUAL}*'))


def remove_abandoned(files: Iterable[Path]) -> list[Path]:
    """Remove temporary files whose processes do not live any more.

    Args:
        files: Temporary files of :func:`atomic_path`.

    Returns:
        What was removed. On a file system without locks nothing can be told
        and nothing is removed.
    """
    removed = []
    for path in files:
        if not path.is_file():
            continue
        try:
            descriptor = open_locked(path)
        except OSError:
            continue
        if descriptor is not None:
            _remove_quietly(path)
            close_locked(descriptor)
            removed.append(path)
    return removed


@contextmanager
def atomic_folder(path: str | Path) -> Iterator[Path]:
    """Yield a temporary folder that becomes ``path`` when the block succeeds.

    A kill leaves the old folder or the new one under the final name, or, in
    the moment between two renames, none; never a part of one. The next call
    puts the old one back, and removes what the killed process has left.

    Args:
        path: The final name. A folder of that name is replaced.

    Yields:
        The temporary folder, in the same place.

    Raises:
        Exception: Whatever the block raises; the temporary folder is removed
            and ``path`` is left as it was.
    """
    path = Path(path)
    with work_folder(path, empty=False) as work:
        new, old = work / 'new', work / 'old'
        if old.exists() and not path.exists():
            rename(old, path)
        for part in (new, old):
            shutil.rmtree(part, ignore_errors=True)
        new.mkdir()
        yield new
        for file in new.rglob('*'):
            if file.is_file():
                with open(file, 'rb') as stream:
                    os.fsync(stream.fileno())
        if path.exists():
            rename(path, old)
        try:
            rename(new, path)
        except OSError:
            if old.exists() and not path.exists():
                rename(old, path)
            raise


@contextmanager
def work_folder(path: Path, *, empty: bool = True) -> Iterator[Path]:
    """Yield a hidden folder beside a file or folder, for what it is made of.

    It is removed in the end, or, after a kill, by the next process that makes
    the same.

    Args:
        path: The final name. Its folder is created if needed.
        empty: Whether to remove what a killed process has left in it.

    Raises:
        OSError: The folder cannot be made; it names ``path``, as does an
            ``OSError`` of the block that names no file.
    """
    usual, lock = _work_paths(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = _lock_own(lock)
        if descriptor is not None:
            work = usual
            if empty:
                shutil.rmtree(work, ignore_errors=True)
            work.mkdir(exist_ok=True)
        else:
            prefix = f'.{path.name}-'
            work = Path(tempfile.mkdtemp(prefix=prefix, dir=path.parent))
    except OSError as error:
        raise about_file(error, path) from None
    try:
        with naming(path):
            yield work
    finally:
        shutil.rmtree(work, ignore_errors=True)
        if descriptor is not None:
            _remove_quietly(lock)
            close_locked(descriptor)


def _work_paths(path):
    """Return the usual work folder of a path and the file of its lock."""
    usual = path.with_name(f'.{path.name}-{_USUAL}')
    # Not inside of the folder: over NFS a file that is open cannot be removed,
    # nor the folder that holds it.
    return usual, usual.with_name(f'{usual.name}.lock')


def clear_work_folder(path: Path) -> None:
    """Remove the work folder of what is finished.

    A kill in the moment after the last rename leaves it, and nobody makes the
    same again.

    Args:
        path: The final name.
    """
    if any(left.exists() for left in _work_paths(path)):
        with work_folder(path):
            pass
