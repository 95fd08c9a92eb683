"""Source files of a preparation: folders and archives given as ``--src``."""

import os
import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from clouds_mmseg.data_tools.prepare.archives import (
    READ_ERRORS,
    FolderSource,
    Member,
    Source,
    TarSource,
    ZipSource,
    unpack_rar,
    volume_number,
)
from clouds_mmseg.data_tools.prepare.write import write_error
from clouds_mmseg.datasets.files import QUARANTINE
from clouds_mmseg.utils.atomic import atomic_path
from clouds_mmseg.utils.errors import DataError
from clouds_mmseg.weights.integrity import is_zip

# Below the output folder: archives unpacked from archives, and RAR archives.
WORK_FOLDER = '.unpacked'
_ARCHIVE = re.compile(
    r'\.(zip|tar|tgz|tar\.(gz|bz2|xz)|tbz2?|txz|rar|z\d\d+|'
    r'(zip|tar|tgz|tar\.gz)\.\d{3,})$',
    re.IGNORECASE,
)
_COMPRESSED = re.compile(r'\.(tgz|tbz2?|txz|gz|bz2|xz)$', re.IGNORECASE)
_CUT = re.compile(r'\.(zip|tar|tgz|tar\.gz)\.(\d{3,})$', re.IGNORECASE)
_NUMBER = re.compile(r'\.\d{3,}$')
_VOLUME = re.compile(r'\.z(\d{2,})$', re.IGNORECASE)
_RAR_PART = re.compile(r'\.part0*(\d+)\.rar$', re.IGNORECASE)
# Levels of archives in archives.
_DEPTH = 3


@dataclass(frozen=True)
class SourceFiles:
    """All files of the sources, looked up by name or pattern.

    Attributes:
        found: Each source with its members.
    """

    found: list[tuple[Source, list[Member]]]

    def any(self, pattern: re.Pattern) -> bool:
        """Return whether the path of a file matches a pattern."""
        return any(
            pattern.fullmatch(member.name)
            for _, members in self.found
            for member in members
        )

    def read(self, name: str) -> bytes | None:
        """Return the content of the first file with a name.

        Args:
            name: Without folders.

        Returns:
            None if there is no such file.
        """
        for source, members in self.found:
            for member in members:
                if member.name.rpartition('/')[2] != name:
                    continue
                try:
                    if source.streamed:
                        # Only a tar archive is streamed.
                        stream = source.stream  # type: ignore[union-attr]
                        return next(stream([member.location]))[1]
                    return source.read(member)
                except DataError:
                    raise
                except READ_ERRORS as error:
                    raise DataError(
                        f'{source.describe(member)} cannot be read ({error}): '
                        'download the archive again'
                    ) from error
        return None


def find_sources(
    paths: Sequence[str | Path], out: str | Path
) -> list[tuple[Source, list[Member]]]:
    """List the files of all sources, archives inside of archives included.

    Args:
        paths: Archives, one or all volumes of split archives, and folders of
            files, of archives or of both.
        out: The output folder. It is not searched, unless it is one of
            ``paths``; what must be unpacked goes to a folder below it.

    Returns:
        Each source with its members, folders first: a file that is unpacked
        need not be read from an archive.

    Raises:
        DataError: A path does not exist, or an archive cannot be read.
    """
    out = os.path.realpath(out)
    work = Path(out) / WORK_FOLDER
    folders, archives = [], {}
    for path in (os.fspath(path) for path in paths):
        if os.path.isdir(path):
            source = FolderSource(os.path.abspath(path))
            # Prepared in place, the output folder is searched too, without
            # the files that verification has moved to quarantine.
            hidden = {str(work), os.path.join(out, QUARANTINE)}
            if os.path.realpath(path) != out:
                hidden.add(out)
            members = list(source.members(hidden))
            folders.append((source, members))
            for member in members:
                if _ARCHIVE.search(member.name):
                    archives[os.path.realpath(member.location)] = (
                        member.location
                    )
        elif os.path.isfile(path):
            if not _ARCHIVE.search(path) and not is_zip(path):
                raise DataError(
                    f'--src {path} is no folder and no archive: it takes '
                    'zip, tar and rar archives, split ones too'
                )
            archives[os.path.realpath(path)] = os.path.abspath(path)
        else:
            raise DataError(
                f'--src {path} does not exist (from {os.getcwd()})'
            )
    return folders + _open_archives(archives.values(), work, _DEPTH)


def _open_archives(paths, work, depth):
    """Index archives, and those inside of them."""
    found, inner = [], []
    for source in _group(sorted(paths), work):
        members = list(source.members())
        found.append((source, members))
        for member in members:
            if _ARCHIVE.search(member.name):
                inner.append(_unpack(source, member, work))
    if inner and depth:
        found += _open_archives(inner, work, depth - 1)
    return found


def _group(paths, work):
    """Yield one source for all volumes of an archive."""
    done = set()
    for path in paths:
        if path in done:
            continue
        volumes, kind = _volumes(path)
        done.update(volumes)
        if kind == 'rar':
            yield FolderSource(str(unpack_rar(volumes[0], work)), owned=True)
        elif kind == 'tar':
            name = _NUMBER.sub('', path)
            streamed = bool(_COMPRESSED.search(name))
            yield TarSource(tuple(volumes), streamed)
        else:
            yield ZipSource(
                tuple(volumes), multi_volume=kind == 'multi_volume'
            )


def _volumes(path):
    """Return all files of the archive that a file belongs to, and its kind.

    Volumes are looked for beside the file, so that naming one is enough.
    """
    folder, name = os.path.split(path)
    cut, volume = _CUT.search(name), _VOLUME.search(name)
    if cut:
        stem = name[: cut.start(2)]
        files = _numbered(folder, re.escape(stem) + r'(\d{3,})', path, 1)
        return files, 'zip' if cut[1].lower() == 'zip' else 'tar'
    part = _RAR_PART.search(name)
    if part:
        stem = re.escape(name[: part.start()])
        return _numbered(folder, stem + r'\.part(\d+)\.rar', path, 1), 'rar'
    if name.lower().endswith('.rar'):
        return [path], 'rar'
    if volume:
        path = os.path.join(folder, name[: volume.start()] + '.zip')
        if not os.path.isfile(path):
            raise DataError(
                f'{os.path.join(folder, name)} is a volume of a split '
                f'archive whose last volume {path} is missing: download it '
                'to the same folder'
            )
        name = os.path.basename(path)
    if _ARCHIVE.search(name) and '.zip' not in name.lower():
        return [path], 'tar'
    before = volume_number(path)
    if before < 1:
        return [path], 'zip'
    stem = re.escape(os.path.splitext(name)[0])
    files = _numbered(folder, stem + r'\.z(\d\d+)', path, 1, before)
    return [*files, path], 'multi_volume'


def _numbered(folder, pattern, path, first, count=None):
    """Return numbered files in order; none may be missing."""
    pattern = re.compile(pattern, re.IGNORECASE)
    found = {}
    for name in os.listdir(folder):
        match = pattern.fullmatch(name)
        if match:
            found[int(match[1])] = os.path.join(folder, name)
    last = first + count - 1 if count else max(found, default=first)
    missing = [n for n in range(first, last + 1) if n not in found]
    if missing:
        raise DataError(
            f'{path} is part of a split archive of which volume '
            f'{", ".join(map(str, missing))} is missing in {folder}: '
            'download it to the same folder'
        )
    return [found[n] for n in range(first, last + 1)]


def _unpack(source, member, work):
    """Extract an archive inside of an archive to the work folder."""
    if isinstance(source, FolderSource):
        return member.location
    # Archives of equal names in different folders must not mix.
    digest = zlib.crc32(source.title.encode(errors='surrogateescape'))
    folder = f'{Path(source.title).name}-{digest:08x}'
    path = Path(work) / folder / member.name
    if path.is_file() and path.stat().st_size == member.size:
        return str(path)
    try:
        with atomic_path(path) as temporary, open(temporary, 'wb') as stream:
            source.copy(member, stream)
    except OSError as error:
        raise write_error(work, path, error) from error
    return str(path)
