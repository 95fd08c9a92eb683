"""Where the data sets are on this machine."""

import os
from pathlib import Path

DATA_ROOT_VARIABLE = 'CLOUDS_DATA_ROOT'


def resolve_data_root(data_root):
    """Apply the environment variable that moves all data roots at once.

    Args:
        data_root (str | None): As in a config, for example ``data/gta5``.

    Returns:
        str | None: With ``CLOUDS_DATA_ROOT=/disk`` set, ``data/gta5`` becomes
        ``/disk/gta5``. Roots that do not begin with ``data/`` are returned as
        they are.
    """
    moved = os.environ.get(DATA_ROOT_VARIABLE)
    if not moved or data_root is None:
        return data_root
    parts = Path(data_root).parts
    if not parts or parts[0] != 'data':
        return data_root
    return str(Path(moved).expanduser().joinpath(*parts[1:]))


def find_beside_data(path, data_root):
    """Find a list or table of a data set, wherever its path is meant from.

    Args:
        path (str): From the working folder, as a data root is, or below the
            data root, as ``ann_file`` is.
        data_root (str | None): Of the data set.

    Returns:
        str: The first of these that is a file; ``path`` if none is.
    """
    roots = [resolve_data_root(path)]
    if data_root is not None:
        roots.append(os.path.join(resolve_data_root(data_root), path))
    found = [name for name in (path, *roots) if os.path.isfile(name)]
    return found[0] if found else path
