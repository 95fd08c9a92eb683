"""Where files come from: folders, zip and tar archives."""

import os
from dataclasses import dataclass
from pathlib import Path

from clouds_mmseg.datasets.prepare.names import safe_name


@dataclass(frozen=True, slots=True)
class Member:
    """A file of a source.

    Attributes:
        name (str): Path inside of the source, with ``/``.
        size (int): In bytes.
        place (str | int): How the source finds it again.
    """

    name: str
    size: int
    place: str | int


@dataclass(frozen=True)
class FolderSource:
    """Files in a folder.

    Attributes:
        root (str): The folder.
        owned (bool): Whether the files were unpacked by us: they may be
            hard-linked, and are deleted when all is done.
    """

    root: str
    owned: bool = False
    is_folder = True
    streamed = False

    @property
    def title(self):
        """The folder's name for people."""
        return self.root

    def members(self, without=()):
        """List the files, in the order of their names.

        Args:
            without (Container[str]): Real paths of folders to leave out.

        Yields:
            Member: Its place is its path.
        """
        seen = set()
        for folder, folders, files in os.walk(self.root, followlinks=True):
            real = os.path.realpath(folder)
            if real in seen or real in without:
                folders.clear()
                continue
            seen.add(real)
            folders.sort()
            for name in sorted(files):
                path = os.path.join(folder, name)
                # An archive unpacked badly has backslashes in file names.
                below = os.path.relpath(path, self.root)
                try:
                    size = os.path.getsize(path)
                except OSError:
                    continue  # a link to nothing
                yield Member(safe_name(below, self.root), size, path)

    def read(self, member):
        """Return the bytes of a file."""
        return Path(member.place).read_bytes()

    def describe(self, member):
        """Name a file for people."""
        return member.place
