"""Folders that are set for a whole process: data, reports, weights.

An option of the tools sets them (:func:`use_folder`); without it, an
environment variable does. Both are read here and nowhere else.
"""

import hashlib
import os
from pathlib import Path
from typing import overload

from mmengine import fileio

from clouds_mmseg.utils.remote import is_address

DATA_ROOT_VARIABLE = 'CLOUDS_DATA_ROOT'
# A folder for reports and class statistics where the data is read-only.
REPORT_DIR_VARIABLE = 'CLOUDS_REPORT_DIR'
PRETRAINED_VARIABLE = 'CLOUDS_PRETRAINED_DIR'

# Like the folder of torch.hub.set_dir: variable -> folder of the option.
_chosen: dict[str, str] = {}


def use_folder(variable: str, folder: str | Path) -> None:
    """Set a folder of this process and the workers that it forks.

    Args:
        variable: One of the environment variables, which it overrules.
        folder: An existing folder, or for reports one that will be made; or
            the address of data.
    """
    folder = str(folder)
    if not is_address(folder):
        folder = os.path.abspath(os.path.expanduser(folder))
    _chosen[variable] = folder


def chosen_folder(variable: str) -> str | None:
    """Return the folder that the option or else the variable names."""
    return _chosen.get(variable) or os.environ.get(variable) or None


@overload
def resolve_data_root(data_root: str) -> str: ...


@overload
def resolve_data_root(data_root: str | None) -> str | None: ...


def resolve_data_root(data_root: str | None) -> str | None:
    """Apply the folder that moves all data roots at once.

    Args:
        data_root: As in a config, for example ``data/gta5``.

    Returns:
        With ``--data-root /disk`` or ``CLOUDS_DATA_ROOT=/disk``, ``data/gta5``
        becomes ``/disk/gta5``. Roots that do not begin with ``data/`` are
        returned as they are.
    """
    moved = chosen_folder(DATA_ROOT_VARIABLE)
    if not moved or data_root is None:
        return data_root
    parts = Path(data_root).parts
    if not parts or parts[0] != 'data':
        return data_root
    if is_address(moved):
        return '/'.join([moved.rstrip('/'), *parts[1:]])
    return str(Path(moved).expanduser().joinpath(*parts[1:]))


def find_beside_data(path: str, data_root: str | None) -> str:
    """Find a list or table by its path from the working or data folder.

    Args:
        path: From the working folder, as a data root is, or below the data
            root, as ``ann_file`` is.
        data_root: Of the data set.

    Returns:
        The first of these that is a file; ``path`` if none is.
    """
    roots = [resolve_data_root(path)]
    if data_root is not None:
        roots.append(os.path.join(resolve_data_root(data_root), path))
    found = [name for name in (path, *roots) if is_file(name)]
    return found[0] if found else path


def is_file(name: str | Path) -> bool:
    """Tell whether a path or an address is a file."""
    return fileio.isfile(name) if is_address(name) else os.path.isfile(name)


def is_folder(name: str | Path) -> bool:
    """Tell whether a path or an address is a folder."""
    return fileio.isdir(name) if is_address(name) else os.path.isdir(name)


def report_folder(root: str) -> str:
    """Return the folder for reports and class statistics of a data set.

    Args:
        root: ``files_root`` of the data set, or its address.

    Returns:
        The root; with ``--report-dir`` or ``CLOUDS_REPORT_DIR`` a folder below
        that, whose name tells roots apart.
    """
    elsewhere = chosen_folder(REPORT_DIR_VARIABLE)
    if not elsewhere or ('://' in root and not is_address(root)):
        return root
    whole = root.rstrip('/') if is_address(root) else os.path.abspath(root)
    digest = hashlib.blake2b(os.fsencode(whole), digest_size=4).hexdigest()
    return os.path.join(elsewhere, f'{os.path.basename(whole)}-{digest}')


def existing_file(root: str, name: str) -> str:
    """Return the path from which a file about a data set is read.

    Args:
        root: ``files_root`` of the data set.
        name: Of the file.

    Returns:
        Its path in :func:`report_folder`, unless only the root has it.
    """
    path = os.path.join(report_folder(root), name)
    beside = os.path.join(root, name)
    if path == beside:
        return beside
    return path if fileio.exists(path) else beside


def read_existing(root: str, name: str) -> bytes | None:
    """Read a file about a data set; None if there is none.

    Args:
        root: See :func:`existing_file`.
        name: Of the file.

    Raises:
        RemoteError: The store cannot be read.
        OSError: Nor can the disk.
    """
    path = existing_file(root, name)
    if '://' in path and not is_address(path):
        # Addresses of mmengine's other file backends have no reports.
        return None
    try:
        return fileio.get(path)
    except FileNotFoundError:
        return None
