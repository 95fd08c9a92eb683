"""Cheap evidence that a file is still the one that was read."""

import os
from concurrent.futures import ThreadPoolExecutor

# Network storage answers many questions at a time.
_THREADS = 16


def stamp(path):
    """Size and time of a file as one text.

    Args:
        path (str): The file; a link is followed.

    Returns:
        str | None: ``'<bytes> <mtime in ns>'``; None if there is no file.
    """
    try:
        found = os.stat(path)
    except OSError:
        return None
    return f'{found.st_size} {found.st_mtime_ns}'


def changed_files(root, stamps):
    """Files that are no longer as they were.

    Args:
        root (str): Folder that the paths are below.
        stamps (dict[str, str]): Path -> :func:`stamp` when it was read.

    Returns:
        list[str]: Paths that are gone or have another size or time, in the
        order of ``stamps``.
    """
    with ThreadPoolExecutor(_THREADS) as pool:
        now = pool.map(stamp, (os.path.join(root, path) for path in stamps))
        return [
            path
            for path, new in zip(stamps, now, strict=True)
            if new != stamps[path]
        ]
