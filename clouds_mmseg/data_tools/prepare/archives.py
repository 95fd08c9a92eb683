"""Zip, tar and RAR archives as sources of files."""

import bisect
import functools
import io
import lzma
import os
import shutil
import stat
import struct
import subprocess
import tarfile
import zipfile
import zlib
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from clouds_mmseg.utils.errors import DataError
from clouds_mmseg.utils.text_files import inner_path

# What reading a damaged member raises.
# Beside those of damage: an unknown compression, a garbled number or name.
READ_ERRORS = (
    *(OSError, EOFError, zipfile.BadZipFile, tarfile.TarError, zlib.error),
    *(lzma.LZMAError, NotImplementedError, ValueError, OverflowError),
    *(KeyError, RuntimeError, struct.error),
)
_BLOCK = 1 << 20
# Of a file that is read into memory, bytes.
_LARGEST = 1 << 30
# Photographs and labels that are packed already cannot be packed much more.
_MOST_TIMES, _ANY_SIZE = 200, 1 << 26
# Program -> arguments to unpack ARCHIVE into FOLDER, both absolute.
_PROGRAMS = {
    'unrar': lambda a, f: ['unrar', 'x', '-y', '-idq', a, f + os.sep],
    '7zz': lambda a, f: ['7zz', 'x', '-y', '-bd', '-bso0', f'-o{f}', a],
    '7z': lambda a, f: ['7z', 'x', '-y', '-bd', '-bso0', f'-o{f}', a],
    'bsdtar': lambda a, f: ['bsdtar', '-x', '-f', a, '-C', f],
}
# Records of the zip format (APPNOTE.TXT, sections 4.3.12 to 4.3.16): end of
# the central directory, its zip64 locator and zip64 form, directory entry.
_END = struct.Struct('<4s4H2LH')
_LOCATOR = struct.Struct('<4sLQL')
_END64 = struct.Struct('<4sQ2H2L4Q')
_ENTRY = struct.Struct('<4s6H3L5H2L')
# A field with this value stands in the zip64 extra field instead.
_SHORT, _LONG = 0xFFFF, 0xFFFFFFFF
# Header id of that extra field.
_ZIP64 = 1


@dataclass(frozen=True, slots=True)
class Member:
    """A file of a source.

    Attributes:
        name: Path inside of the source, with ``/``.
        size: In bytes.
        location: Where the source finds it: a path, the name in a zip archive,
            or the offset in a tar archive.
    """

    name: str
    size: int
    location: Any


@dataclass(frozen=True)
class FolderSource:
    """Files in a folder.

    Attributes:
        root: The folder.
        owned: Whether the files were unpacked by the preparation: they may be
            hard-linked, and are deleted at its end.
    """

    root: str
    owned: bool = False
    is_folder = True
    streamed = False

    @property
    def title(self) -> str:
        """The folder, for messages."""
        return self.root

    def members(self, without: Container[str] = ()) -> Iterator[Member]:
        """List the files, in the order of their names.

        Args:
            without: Real paths of folders to leave out.

        Yields:
            Members whose location is their path.
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
                    continue  # a broken link
                yield Member(safe_name(below, self.root), size, path)

    def read(self, member: Member) -> bytes:
        """Return the bytes of a file."""
        return Path(member.location).read_bytes()

    def describe(self, member: Member) -> str:
        """Return the path of a file, for messages."""
        return member.location


@dataclass(frozen=True)
class ZipSource:
    """Files in a zip archive, which may consist of several volumes.

    Attributes:
        paths: The file, or its volumes in order.
        multi_volume: Whether the volumes are ``.z01, ..., .zip``; else they
            are the pieces of one file.
    """

    paths: tuple[str, ...]
    multi_volume: bool = False
    is_folder = False
    owned = False
    streamed = False

    @property
    def title(self) -> str:
        """The archive, for messages."""
        return self.paths[-1] if self.multi_volume else self.paths[0]

    def members(self, without: Container[str] = ()) -> Iterator[Member]:
        """List the files of the archive.

        Yields:
            Members whose location is their name as stored.

        Raises:
            DataError: It is no archive, incomplete, encrypted, or holds names
                or links that lead out of it.
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
            _check_size(self.title, name, info.file_size, info.compress_size)
            yield Member(name, info.file_size, info.filename)

    def read(self, member: Member) -> bytes:
        """Return the bytes of a member, whose checksum is verified."""
        _check_memory(self, member)
        return _open_zip(self).read(member.location)

    def copy(self, member: Member, stream: BinaryIO) -> None:
        """Write a large member to a file."""
        with _open_zip(self).open(member.location) as content:
            shutil.copyfileobj(content, stream, _BLOCK)

    def describe(self, member: Member) -> str:
        """Return archive and name of a member, for messages."""
        return f'{self.title}: {member.name}'


@dataclass(frozen=True)
class TarSource:
    """Files in a tar archive, uncompressed or compressed.

    Attributes:
        paths: The file, or the pieces it was cut into.
        streamed: Whether it is compressed, so that its members can only be
            read one after the other.
    """

    paths: tuple[str, ...]
    streamed: bool = False
    is_folder = False
    owned = False

    @property
    def title(self) -> str:
        """The archive, for messages."""
        return self.paths[0]

    def members(self, without: Container[str] = ()) -> Iterator[Member]:
        """List the files of the archive; a compressed one is read through.

        Yields:
            Members whose location is the offset of their content.

        Raises:
            DataError: See :meth:`ZipSource.members`.
        """
        packed, end = sum(map(os.path.getsize, self.paths)), 0
        for info, _ in self._walk():
            name = safe_name(info.name, self.title)
            end = max(end, info.offset_data + info.size)
            _check_size(self.title, name, end, packed)
            yield Member(name, info.size, info.offset_data)

    def stream(self, locations: Container[int]) -> Iterator[tuple[int, bytes]]:
        """Read members in the order in which they are stored.

        Args:
            locations: Locations of the members.

        Yields:
            Location and content.
        """
        for info, archive in self._walk():
            if info.offset_data in locations:
                _check_memory(self, Member(info.name, info.size, None))
                yield info.offset_data, archive.extractfile(info).read()

    def read(self, member: Member) -> bytes:
        """Return the bytes of a member of an uncompressed archive."""
        _check_memory(self, member)
        with ConcatenatedFile(self.paths) as stream:
            stream.seek(member.location)
            content = stream.read(member.size)
        if len(content) < member.size:
            raise EOFError(f'{self.title} ends inside of {member.name}')
        return content

    def copy(self, member: Member, stream: BinaryIO) -> None:
        """Write a large member to a file."""
        for info, archive in self._walk():
            if info.offset_data == member.location:
                content = archive.extractfile(info)
                shutil.copyfileobj(content, stream, _BLOCK)
                return

    def describe(self, member: Member) -> str:
        """Return archive and name of a member, for messages."""
        return f'{self.title}: {member.name}'

    def _walk(self):
        mode = 'r|*' if self.streamed else 'r:'
        try:
            with (
                ConcatenatedFile(self.paths) as file,
                tarfile.open(fileobj=file, mode=mode) as archive,
            ):
                for info in archive:
                    if info.issym() or info.islnk():
                        refuse_link(info.name, self.title)
                    if info.isreg() and not info.issparse():
                        yield info, archive
        except DataError:
            raise
        except READ_ERRORS as error:
            raise _unreadable(self.title, error) from error


Source = FolderSource | ZipSource | TarSource


def _open_zip(source):
    # A forked process has its parent's files, with one position for both.
    return _open_zip_in(source, os.getpid())


@functools.lru_cache(maxsize=16)
def _open_zip_in(source, pid):
    try:
        if source.multi_volume:
            return zipfile.ZipFile(join_volumes(source.paths))
        return zipfile.ZipFile(ConcatenatedFile(source.paths))
    except READ_ERRORS as error:
        raise _unreadable(source.title, error) from error


def _check_size(title, name, size, packed):
    """Refuse a file that would fill the disk: a zip bomb."""
    if size > _ANY_SIZE + _MOST_TIMES * packed:
        raise DataError(
            f'{title} claims to hold {size:,} bytes in {packed:,} (up to '
            f'{name!r}): no photographs can be packed like that. Download '
            'it again from the official page, or unpack it yourself and give '
            'the folder as --src.'
        )


def _check_memory(source, member):
    """Refuse a file that is too large to be an image or a label."""
    if member.size > _LARGEST:
        raise DataError(
            f'{source.describe(member)} has {member.size:,} bytes; images '
            f'and labels have at most {_LARGEST:,}'
        )


def _unreadable(path, error):
    return DataError(
        f'{path} cannot be read as an archive ({error}). Its download is '
        'probably incomplete: compare its size with the one on the official '
        'page and download it again.'
    )


def safe_name(name: str, archive: str) -> str:
    """Normalise the name of an archive's member.

    Args:
        name: As stored. Backslashes count as separators: archives packed on
            Windows have them.
        archive: For the message.

    Returns:
        Relative, with ``/``, without ``.`` and empty parts.

    Raises:
        DataError: The name leaves the folder that it would be unpacked to,
            or has control characters.
    """
    try:
        inner_path(name)
    except ValueError as error:
        raise DataError(
            f'a name in {archive} is refused: {error}. Official archives have '
            'no such names, so download it again from the official page.'
        ) from None
    parts = name.replace('\\', '/').split('/')
    return '/'.join(part for part in parts if part not in ('', '.'))


def refuse_link(name: str, archive: str) -> None:
    """Raise the error about a link inside an archive.

    Args:
        name: Of the link.
        archive: The archive.

    Raises:
        DataError: Always.
    """
    raise DataError(
        f'{archive} holds the link {name!r}. Links in archives are not '
        'followed, they may point anywhere: unpack it yourself and give the '
        'folder as --src.'
    )


def unpack_rar(path: str, work: str | Path) -> Path:
    """Unpack a RAR archive with an installed program.

    Args:
        path: The archive, or its first part.
        work: Folder that the archive is unpacked below.

    Returns:
        Folder with the files. An archive that is unpacked there already is not
        unpacked again.

    Raises:
        DataError: No program is installed, or it failed.
    """
    program = next((p for p in _PROGRAMS if shutil.which(p)), None)
    folder = Path(work).absolute() / Path(path).name
    if folder.is_dir():
        return folder
    if program is None:
        raise DataError(
            f'{path} is a RAR archive, and none of {", ".join(_PROGRAMS)} '
            'is installed. Install one (Ubuntu: apt install unrar, or '
            'libarchive-tools for bsdtar), or unpack the archive yourself '
            'and give the folder as --src.'
        )
    partial = folder.with_name(f'.{folder.name}-partial')
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    command = _PROGRAMS[program](os.path.abspath(path), str(partial))
    result = subprocess.run(command, capture_output=True, check=False)
    if result.returncode:
        shutil.rmtree(partial, ignore_errors=True)
        said = result.stderr.decode(errors='replace').strip().splitlines()
        raise DataError(
            f'{program} could not unpack {path} (exit status '
            f'{result.returncode}): {" / ".join(said[-3:]) or "no message"}. '
            'Is the download complete, and the disk large enough?'
        )
    os.replace(partial, folder)
    return folder


class ConcatenatedFile(io.RawIOBase):
    """Read-only file object over several files and trailing bytes.

    Args:
        paths: The files in their order.
        tail: Bytes after the last of them.
    """

    def __init__(self, paths: Sequence[str], tail: bytes = b''):
        super().__init__()
        self._files: list[Any] = [open(path, 'rb') for path in paths]
        self._files.append(io.BytesIO(tail))
        sizes = [f.seek(0, os.SEEK_END) for f in self._files]
        self.starts = [sum(sizes[:i]) for i in range(len(sizes))]
        self.size = sum(sizes)
        self._position = 0

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Set the position, as in every file object."""
        base = {0: 0, 1: self._position, 2: self.size}[whence]
        self._position = max(0, base + offset)
        return self._position

    def tell(self) -> int:
        """Return the position."""
        return self._position

    def readinto(self, buffer: Any) -> int:
        """Read into a buffer, up to the end of one of the files."""
        if self._position >= self.size:
            return 0
        # The last of several that begin here: those before it are empty.
        index = bisect.bisect_right(self.starts, self._position) - 1
        file = self._files[index]
        file.seek(self._position - self.starts[index])
        count = file.readinto(buffer)
        self._position += count
        return count

    def read(self, size: int | None = -1) -> bytes:
        """Read ``size`` bytes, fewer only at the end."""
        if size is None or size < 0:
            return self.readall()
        # A damaged header asks for more than there is.
        data = bytearray(min(size, max(0, self.size - self._position)))
        size = len(data)
        view, count = memoryview(data), 0
        while count < size:
            step = self.readinto(view[count:])
            if not step:
                break
            count += step
        view.release()
        return bytes(data[:count])

    def close(self) -> None:
        """Close the files."""
        for file in self._files:
            file.close()
        super().close()


class SplitZipError(ValueError):
    """The volumes are not those of one archive."""


def volume_number(path: str) -> int:
    """Return the volume number in the end record of a zip file.

    Args:
        path: The file that ends in ``.zip``.

    Returns:
        0 for an ordinary archive, n if n volumes come before it, and -1 if the
        file has no directory.
    """
    with open(path, 'rb') as stream:
        end = _find_end(stream)
        if end is None:
            return -1
        position, fields = end
        if fields[1] != _SHORT:
            return fields[1]
        stream.seek(max(0, position - _LOCATOR.size))
        locator = stream.read(_LOCATOR.size)
    if locator[:4] == b'PK\x06\x07':
        return max(0, _LOCATOR.unpack(locator)[3] - 1)
    return 0


def join_volumes(paths: Sequence[str]) -> ConcatenatedFile:
    """Open the volumes of an archive as one ordinary zip file.

    Args:
        paths: ``name.z01``, ``name.z02``, ..., ``name.zip``.

    Returns:
        File object for :class:`zipfile.ZipFile`.

    Raises:
        SplitZipError: The volumes do not fit together.
    """
    joined = ConcatenatedFile(paths)
    try:
        entries = _read_directory(joined, len(paths))
        tail = _write_directory(entries, joined.size)
    except struct.error as error:
        raise SplitZipError(f'the directory is damaged: {error}') from error
    finally:
        joined.close()
    return ConcatenatedFile(paths, tail)


def _find_end(stream):
    """Return position and fields of the end record, or None."""
    size = stream.seek(0, io.SEEK_END)
    # Only a comment of at most 64 KiB follows it.
    start = max(0, size - _END.size - 0xFFFF)
    stream.seek(start)
    data = stream.read()
    found = data.rfind(b'PK\x05\x06')
    if found < 0 or found + _END.size > len(data):
        return None
    return start + found, _END.unpack_from(data, found)


def _read_directory(joined, volumes):
    """Return fields, name, extra field and comment of each entry."""
    end = _find_end(joined)
    if end is None:
        raise SplitZipError('the last volume has no directory')
    position, (_, last, first, _, total, size, offset, _) = end
    data = _read_at(joined, max(0, position - _LOCATOR.size), _LOCATOR.size)
    if data[:4] == b'PK\x06\x07':
        _, disk, record_at, disks = _LOCATOR.unpack(data)
        last = disks - 1
        if disk < volumes:
            record = _read_at(
                joined, joined.starts[disk] + record_at, _END64.size
            )
            fields = _END64.unpack(record)
            first, total, size, offset = fields[5], *fields[7:]
    if last != volumes - 1:
        raise SplitZipError(
            f'the archive has {last + 1} volumes, found {volumes}'
        )
    data = _read_at(joined, joined.starts[first] + offset, size)
    entries, at = [], 0
    for _ in range(total):
        fields = list(_ENTRY.unpack_from(data, at))
        if fields[0] != b'PK\x01\x02':
            raise SplitZipError('the directory is damaged')
        at += _ENTRY.size
        name, extra, comment = (
            data[at : at + fields[10]],
            data[at + fields[10] : at + fields[10] + fields[11]],
            data[at + sum(fields[10:12]) : at + sum(fields[10:13])],
        )
        at += sum(fields[10:13])
        _make_absolute(fields, extra, joined.starts[:volumes])
        entries.append((fields, name, _without_zip64(extra), comment))
    return entries


def _read_at(stream, position, count):
    stream.seek(position)
    data = stream.read(count)
    if len(data) < count:
        raise SplitZipError('a volume is missing or too short')
    return data


def _make_absolute(fields, extra, starts):
    """Replace volume and offset of an entry by the joined file's offset."""
    wide = dict(_extra_fields(extra)).get(_ZIP64, b'')
    at = 0
    # In this order, and only those that do not fit: size, packed size,
    # offset, volume.
    for index, sentinel, code in (
        (9, _LONG, '<Q'),
        (8, _LONG, '<Q'),
        (16, _LONG, '<Q'),
        (13, _SHORT, '<L'),
    ):
        if fields[index] == sentinel:
            (fields[index],) = struct.unpack_from(code, wide, at)
            at += struct.calcsize(code)
    if fields[13] >= len(starts):
        raise SplitZipError(f'an entry begins in volume {fields[13] + 1}')
    fields[16] += starts[fields[13]]
    fields[13] = 0


def _extra_fields(extra):
    """Yield kind and content of the parts of an extra field."""
    at = 0
    while at + 4 <= len(extra):
        kind, size = struct.unpack_from('<2H', extra, at)
        yield kind, extra[at + 4 : at + 4 + size]
        at += 4 + size


def _without_zip64(extra):
    return b''.join(
        struct.pack('<2H', kind, len(content)) + content
        for kind, content in _extra_fields(extra)
        if kind != _ZIP64
    )


def _write_directory(entries, start):
    """Encode a directory at offset ``start``, with its end records."""
    out = bytearray()
    for fields, name, extra, comment in entries:
        wide = struct.pack(
            '<2H3Q', _ZIP64, 24, fields[9], fields[8], fields[16]
        )
        fields = [*fields]
        fields[8] = fields[9] = fields[16] = _LONG
        fields[11] = len(wide) + len(extra)
        out += _ENTRY.pack(*fields) + name + wide + extra + comment
    count, size = len(entries), len(out)
    out += _END64.pack(
        b'PK\x06\x06', 44, 45, 45, 0, 0, count, count, size, start
    )
    out += _LOCATOR.pack(b'PK\x06\x07', 0, start + size, 1)
    out += _END.pack(b'PK\x05\x06', 0, 0, _SHORT, _SHORT, _LONG, _LONG, 0)
    return bytes(out)
