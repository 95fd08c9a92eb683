"""Write files so that a kill at any moment leaves the old one or the new."""

import os
import tempfile
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def atomic_path(path):
    """Yield a temporary path that becomes ``path`` when the block succeeds.

    The temporary file lies in the same folder, because a rename is atomic
    only inside one file system; it keeps the suffix, because image writers
    choose their format by it. The data is flushed to disk before the rename,
    so that a power cut cannot leave an empty file under the final name.

    Args:
        path (str | Path): The final name. Its folder is created if needed.

    Yields:
        Path: Where to write.

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


def leftovers(pattern):
    """Temporary files that a killed process left beside its targets.

    Args:
        pattern (str | Path): A final path as given to :func:`atomic_path`,
            whose name may hold ``*``.

    Returns:
        list[Path]: The temporary files, sorted. Another process may be
        writing one of them this very moment.
    """
    pattern = Path(pattern)
    # mkstemp puts eight random characters between prefix and suffix.
    name = f'.{pattern.stem}-????????{pattern.suffix}'
    return sorted(pattern.parent.glob(name))
