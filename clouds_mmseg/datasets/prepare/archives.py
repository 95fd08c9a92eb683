"""Zip and tar archives as sources of files."""

import functools
import os
import shutil
import stat
import tarfile
import zipfile
import zlib
from dataclasses import dataclass

from clouds_mmseg.datasets.errors import DataError
from clouds_mmseg.datasets.prepare.joined import JoinedFile
from clouds_mmseg.datasets.prepare.names import refuse_link, safe_name
from clouds_mmseg.datasets.prepare.sources import Member
from clouds_mmseg.datasets.prepare.split_zip import (
    SplitZipError,
    join_volumes,
)

# What reading a member raises if the archive is damaged at that place.
READ_ERRORS = (OSError, EOFError, zipfile.BadZipFile, zlib.error)

_BLOCK = 1 << 20


@dataclass(frozen=True)
class ZipSource:
    """Files in a zip archive, which may consist of several volumes.

    Attributes:
        paths (tuple[str]): The file, or its volumes in order.
        spanned (bool): Whether the volumes are ``.z01, ..., .zip``; else
            they are one file that was cut.
    """

    paths: tuple
    spanned: bool = False
    is_folder = False
    owned = False
    streamed = False

    @property
    def title(self):
        """The archive's name for people."""
        return self.paths[-1] if self.spanned else self.paths[0]

    def members(self, without=()):
        """List the files of the archive.

        Yields:
            Member: Its place is the name as stored.

        Raises:
            DataError: It is no archive, incomplete, encrypted, or holds
                names or links that lead out of it.
        """
        for info in _open_zip(self).infolist():
            name = safe_name(info.filename, self.title)
            if stat.S_ISLNK(info.external_attr >> 16):
                refuse_link(info.filename, self.title)
            if info.is_dir() or not name:
                continue
            if info.flag_bits & 1:
                raise DataError(
                    f'{self.title} is encrypted: unpack it yourself and give '
                    'the folder as --src.'
                )
            yield Member(name, info.file_size, info.filename)

    def read(self, member):
        """Return the bytes of a member; the archive's checksum is tested."""
        return _open_zip(self).read(member.place)

    def copy(self, member, stream):
        """Write a large member to a file."""
        with _open_zip(self).open(member.place) as content:
            shutil.copyfileobj(content, stream, _BLOCK)

    def describe(self, member):
        """Name a member for people."""
        return f'{self.title}: {member.name}'


@dataclass(frozen=True)
class TarSource:
    """Files in a tar archive, plain or compressed.

    Attributes:
        paths (tuple[str]): The file, or the pieces it was cut into.
        streamed (bool): Whether it is compressed, so that its members can
            only be read one after the other.
    """

    paths: tuple
    streamed: bool = False
    is_folder = False
    owned = False

    @property
    def title(self):
        """The archive's name for people."""
        return self.paths[0]

    def members(self, without=()):
        """List the files of the archive; a compressed one is read through.

        Yields:
            Member: Its place is the offset of its content.

        Raises:
            DataError: See :meth:`ZipSource.members`.
        """
        for info, _ in self._walk():
            name = safe_name(info.name, self.title)
            yield Member(name, info.size, info.offset_data)

    def stream(self, wanted):
        """Read members in the order in which they are stored.

        Args:
            wanted (Container[int]): Their places.

        Yields:
            tuple[int, bytes]: Place and content.
        """
        for info, archive in self._walk():
            if info.offset_data in wanted:
                yield info.offset_data, archive.extractfile(info).read()

    def read(self, member):
        """Return the bytes of a member of a plain archive."""
        with JoinedFile(self.paths) as stream:
            stream.seek(member.place)
            content = stream.read(member.size)
        if len(content) < member.size:
            raise EOFError(f'{self.title} ends inside of {member.name}')
        return content

    def copy(self, member, stream):
        """Write a large member to a file."""
        for info, archive in self._walk():
            if info.offset_data == member.place:
                content = archive.extractfile(info)
                shutil.copyfileobj(content, stream, _BLOCK)
                return

    def describe(self, member):
        """Name a member for people."""
        return f'{self.title}: {member.name}'

    def _walk(self):
        mode = 'r|*' if self.streamed else 'r:'
        try:
            with (
                JoinedFile(self.paths) as file,
                tarfile.open(fileobj=file, mode=mode) as archive,
            ):
                for info in archive:
                    if info.issym() or info.islnk():
                        refuse_link(info.name, self.title)
                    if info.isreg() and not info.issparse():
                        yield info, archive
        except (tarfile.TarError, EOFError, zlib.error, OSError) as error:
            raise _unreadable(self.title, error) from error


def _open_zip(source):
    # A forked process has its parent's files, with one position for both.
    return _open_zip_in(source, os.getpid())


@functools.lru_cache(maxsize=16)
def _open_zip_in(source, pid):
    try:
        if source.spanned:
            return zipfile.ZipFile(join_volumes(source.paths))
        return zipfile.ZipFile(JoinedFile(source.paths))
    except (zipfile.BadZipFile, SplitZipError, OSError) as error:
        raise _unreadable(source.title, error) from error


def _unreadable(path, error):
    return DataError(
        f'{path} cannot be read as an archive ({error}). Its download is '
        'probably incomplete: compare its size with the one on the official '
        'page and download it again.'
    )
