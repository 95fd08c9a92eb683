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
