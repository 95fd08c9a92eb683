"""Atomic writes: a kill at any moment leaves the old file or the new one."""

import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path that becomes ``path`` when the block succeeds.

    The temporary file lies in the same folder, because a rename is atomic
    only inside one file system; it keeps the suffix, because image writers
    choose their format by it. The data is flushed to disk before the rename,
    so that a power cut cannot leave an empty file under the final name.

    Args:
        path: The final name. Its folder is created if needed.

    Yields:
        The temporary path.

    Raises:
        Exception: Whatever the block raises; the temporary file is removed
            and ``path`` is left as it was.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(
        prefix=f'.{path.stem}-', suffix=path.suffix, dir=path.parent
    )
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        # mkstemp makes private files; what users get follows their umask.
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)
        with open(temporary, 'rb') as stream:
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def create_file(path: str | Path, payload: bytes) -> bool:
    """Write a file whole, unless one of its name exists.

    Of several processes that do so, on any machines, one succeeds.

    Args:
        path: In an existing folder.
        payload: Its content.

    Returns:
        Whether this call made the file.

    Raises:
        OSError: The file cannot be written.
    """
    path = Path(path)
    draft = path.with_name(f'.{path.name}-{secrets.token_hex(4)}')
    try:
        with open(draft, 'wb') as stream:
            stream.write(payload)
            stream.flush()
            os.fsync(stream.fileno())
        try:
            # Unlike a rename, a link fails where the name is taken.
            os.link(draft, path)
        except FileExistsError:
            return False
        except OSError:
            # This file system has no hard links.
            if path.exists():
                return False
            os.replace(draft, path)
        return True
    finally:
        draft.unlink(missing_ok=True)


def leftovers(pattern: str | Path) -> list[Path]:
    """Find temporary files that a killed process left beside its targets.

    Args:
        pattern: A final path as given to :func:`atomic_path`, whose name may
            contain ``*``.

    Returns:
        The temporary files, sorted. Another process may still be writing one
        of them.
    """
    pattern = Path(pattern)
    # mkstemp puts eight random characters between prefix and suffix.
    name = f'.{pattern.stem}-????????{pattern.suffix}'
    return sorted(pattern.parent.glob(name))


@contextmanager
def atomic_folder(path: str | Path) -> Iterator[Path]:
    """Yield a temporary folder that becomes ``path`` when the block succeeds.

    A kill leaves the old folder or the new one under the final name, or, in
    the moment between two renames, none; never a part of one.

    Args:
        path: The final name. A folder of that name is replaced.

    Yields:
        The temporary folder, in the same place.

    Raises:
        Exception: Whatever the block raises; the temporary folder is removed
            and ``path`` is left as it was.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f'.{path.name}-', dir=path.parent))
    new, old = work / 'new', work / 'old'
    new.mkdir()
    try:
        yield new
        for file in new.rglob('*'):
            if file.is_file():
                with open(file, 'rb') as stream:
                    os.fsync(stream.fileno())
        if path.exists():
            os.rename(path, old)
        try:
            os.rename(new, path)
        except OSError:
            if old.exists():
                os.rename(old, path)
            raise
    finally:
        shutil.rmtree(work, ignore_errors=True)
