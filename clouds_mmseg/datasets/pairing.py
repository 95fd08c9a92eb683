"""Which files below a folder are images, and which label is whose.

An image and its label have the same path below their folders, up to their
suffixes (``a/0_rgb.png`` and ``a/0_ids.png``). Suffixes are compared without
regard to case: cameras write ``.JPG``.
"""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from mmengine import fileio

# What a file must end in to be taken for an image that nobody reads.
IMAGE_EXTENSIONS = tuple(
    '.png .jpg .jpeg .jpe .jp2 .bmp .webp .tif .tiff .ppm .pgm .gif '
    '.heic .avif'.split()
)
# Folders that programs leave behind, beside those that begin with a dot.
_DEBRIS = ('__MACOSX',)


@dataclass
class Files:
    """What lies below a folder.

    Attributes:
        names: Paths below the folder, in no order, ``/`` as on this system.
            Hidden files are left out: macOS writes ``._0.png``.
        broken: Those of ``names`` that are links to nothing.
    """

    names: list[str] = field(default_factory=list)
    broken: set[str] = field(default_factory=set)


def list_files_below(folder: str, backend_args: dict | None = None) -> Files:
    """List a folder and all below it, links followed.

    Args:
        folder: Local, or an address that mmengine's file backends know.
        backend_args: Of mmengine's file backend.
    """
    found = Files()
    if backend_args or '://' in folder:
        names = fileio.list_dir_or_file(
            folder, list_dir=False, recursive=True, backend_args=backend_args
        )
        found.names = [name for name in names if not _is_hidden(name)]
        return found
    _scan(folder, '', [os.path.realpath(folder)], found)
    return found


def _is_hidden(path: str) -> bool:
    parts = path.replace('\\', '/').split('/')
    return any(part.startswith('.') or part in _DEBRIS for part in parts)


def _scan(folder: str, below: str, above: list[str], found: Files) -> None:
    with os.scandir(os.path.join(folder, below)) as entries:
        for entry in entries:
            if _is_hidden(entry.name):
                continue
            name = os.path.join(below, entry.name)
            if entry.is_dir():
                real = os.path.realpath(entry.path)
                # A link to a folder above would have no end.
                if not entry.is_symlink() or real not in above:
                    _scan(folder, name, [*above, real], found)
                continue
            found.names.append(name)
            if entry.is_symlink() and not os.path.exists(entry.path):
                found.broken.add(name)


def as_suffixes(suffix: str | Sequence[str]) -> tuple[str, ...]:
    """Return one suffix or several as a tuple."""
    return (suffix,) if isinstance(suffix, str) else tuple(suffix)


def suffix_text(suffix: str | Sequence[str]) -> str:
    """Write suffixes for a person: ``*.png``, ``*.jpg or *.png``."""
    return ' or '.join(f'*{end}' for end in as_suffixes(suffix))


def without_suffix(name: str, suffix: str | Sequence[str]) -> str | None:
    """Cut off the suffix of a file.

    Args:
        name: Path of the file.
        suffix: One, or several of which the longest that fits is cut off.

    Returns:
        None if it ends in none of them.
    """
    ends = sorted(as_suffixes(suffix), key=len, reverse=True)
    for end in ends:
        if name.lower().endswith(end.lower()):
            return name[: len(name) - len(end)]
    return None


class Lookup:
    """Finds files by their path without suffix.

    Args:
        names: Paths that exist.
        suffix: Of those that count.
    """

    def __init__(
        self, names: Iterable[str], suffix: str | Sequence[str]
    ) -> None:
        self.suffixes = as_suffixes(suffix)
        self._names = set(names)
        self._by_stem: dict[str, str] = {}
        # Sorted, so that which of two is taken does not depend on the disk.
        for name in sorted(self._names):
            stem = without_suffix(name, self.suffixes)
            if stem is not None:
                self._by_stem.setdefault(stem, name)

    def find(self, stem: str) -> str | None:
        """Return the file of a stem; one with the exact suffix first."""
        for end in self.suffixes:
            if stem + end in self._names:
                return stem + end
        return self._by_stem.get(stem)

    def find_written(
        self, name: str, further: Sequence[str] = ()
    ) -> str | None:
        """Return the file that a line of a list means.

        Args:
            name: With or without suffix, or with a part of it, with ``/`` or
                as on Windows with backslashes.
            further: Suffixes that the name may have besides those of the
                files.
        """
        for written in dict.fromkeys((name, name.replace('\\', '/'))):
            if found := self.find(written):
                return found
            if written in self._names and (
                without_suffix(written, self.suffixes) is not None
            ):
                return written
            for end in (*self.suffixes, *further):
                stem = without_suffix(written, end)
                if stem is None:
                    # 'a_leftImg8bit' of '*_leftImg8bit.png'.
                    stem = without_suffix(written, os.path.splitext(end)[0])
                if stem and (found := self.find(stem)):
                    return found
        return None


def other_images(
    names: Iterable[str], taken: Iterable[str], suffix: str | Sequence[str]
) -> dict[str, list[str]]:
    """Group the images that differ from those that are read by their ending.

    Args:
        names: All files of a folder.
        taken: Those that are read or known for something else.
        suffix: Of those that are read. One such as ``_rgb.png`` chooses among
            images: ``0_rgb.jpg`` is told, ``0_depth.png`` is not.

    Returns:
        Ending (``'.jpg'``, as written) -> files, the most frequent ending
        first.
    """
    chosen = [os.path.splitext(f'x{end}') for end in as_suffixes(suffix)]
    parts = tuple(stem[1:].lower() for stem, _ in chosen)
    groups: dict[str, list[str]] = {}
    for name in sorted(set(names) - set(taken)):
        stem, end = os.path.splitext(name)
        if end.lower() in IMAGE_EXTENSIONS and stem.lower().endswith(parts):
            groups.setdefault(end, []).append(name)
    ends = sorted(groups, key=lambda end: -len(groups[end]))
    return {end: groups[end] for end in ends}


def unique_names(paths: Sequence[str]) -> list[str]:
    """Name images for the files that are written about them.

    Args:
        paths: Of images below their folder, each once or more.

    Returns:
        For each the path with ``/`` and without extension; with it where
        images differ in nothing else (``0.jpg``, ``0.png``).
    """
    stems = [os.path.splitext(path)[0] for path in paths]
    owners: dict[str, set[str]] = {}
    for stem, path in zip(stems, paths, strict=True):
        owners.setdefault(stem, set()).add(path)
    return [
        (stem if len(owners[stem]) == 1 else path).replace(os.sep, '/')
        for stem, path in zip(stems, paths, strict=True)
    ]
