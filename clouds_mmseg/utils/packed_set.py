"""Files of an image set, plain in its folder or packed into tar shards.

A packed set is a folder with ``bank.json`` and ``manifest.jsonl`` as they
were, the other files of the set in shards (``shard-000000.tar``) after the
convention of WebDataset, and the list of the shards, ``pack.json``. In a shard
stand, for each image, ``000012.png``, its labels (``000012.label.png``) and
its entry of the manifest (``000012.json``). An index beside each shard says
where each member is, in the format that ``wds2idx`` of NVIDIA DALI writes.

So a member can be read alone, by its offset. It has a path of its own, such as
``tar:///data/bank/shard-000000.tar@1536+52346/000012.png`` or
``tar+s3://bucket/...``, which the file backends of mmengine read.
"""

import hashlib
import os
import re
import tarfile
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from mmengine import fileio
from mmengine.fileio.backends import BaseStorageBackend, register_backend

from clouds_mmseg.utils.errors import DataError
from clouds_mmseg.utils.image_set import (
    FILTER_FOLDER,
    IMAGE_FOLDER,
    LABEL_FOLDER,
    MANIFEST_FILE,
    TRAINING_FOLDER,
    BankError,
)
from clouds_mmseg.utils.remote import (
    SCHEMES,
    is_address,
    list_below,
    read_range,
)
from clouds_mmseg.utils.text_files import parse_json

PACK_FILE = 'pack.json'
PACK_FORMAT = 1
BLOCK = tarfile.BLOCKSIZE
INDEX_HEAD = 'v1.2'
_KINDS = {
    IMAGE_FOLDER: '',
    TRAINING_FOLDER: '.label',
    LABEL_FOLDER: '.evaluation_label',
}
_FILTERED = re.compile(rf'{FILTER_FOLDER}/labels-[0-9a-f]+')
# Names that a manifest or an index may state: WebDataset ends the key of a
# sample at the first dot, and a header of a tar has place for 100 characters.
_FILE = re.compile(r'([A-Za-z0-9_-]{1,60})(\.[A-Za-z0-9]{1,8})')
_MEMBER = r'[A-Za-z0-9_-]{1,60}(?:\.[A-Za-z0-9_]{1,20}){1,2}'
_SHARD = r'shard-[0-9]{6,9}\.tar'
_PATH = re.compile(
    rf'tar(?:\+([^:/]+))?://(.*{_SHARD})@([0-9]+)\+([0-9]+)/({_MEMBER})'
)
_ADVICE = 'Copy the shard and its index again, or pack the image set again.'


class Place(NamedTuple):
    """Where a member of a shard is.

    Attributes:
        shard: Name of the shard.
        offset: Of its first byte.
        size: Bytes.
    """

    shard: str
    offset: int
    size: int


class SetFiles:
    """Files of an image set by the names that its manifest has for them.

    Args:
        root: Folder of the set, or its address.

    Attributes:
        packed: Whether the set is packed.

    Raises:
        BankError: The set is packed, and a shard is missing or broken off, an
            index is damaged, or the manifest is not the one that was packed.
    """

    def __init__(self, root: str | Path):
        self.root = str(root)
        self.packed = is_packed(root)
        self._places = self._read_places() if self.packed else {}

    def path(self, name: str) -> str:
        """Return the path by which mmengine's file backends read a file.

        Args:
            name: Of the file, as the manifest has it.

        Raises:
            BankError: The set is packed, and its index does not have it.
        """
        if not self.packed:
            return os.path.join(self.root, name)
        member = self.member(name)
        place = self.place(member)
        shard = os.path.join(self.root, place.shard)
        start = 'tar+' if is_address(shard) else 'tar://'
        return f'{start}{shard}@{place.offset}+{place.size}/{member}'

    def member(self, name: str) -> str:
        """Return the member of a shard that is a file of the set.

        Args:
            name: As the manifest has it: ``labels/000012.png``.

        Returns:
            ``000012.label.png``.

        Raises:
            BankError: It is no name that image sets have.
        """
        folder, _, base = name.rpartition('/')
        kind = _KINDS.get(folder)
        if kind is None and _FILTERED.fullmatch(folder):
            kind = '.filtered_label'
        match = _FILE.fullmatch(base)
        if kind is None or match is None:
            raise BankError(
                f'{self.root}: {name!r} cannot be a file of a packed image '
                f'set: those are in {IMAGE_FOLDER}/, {TRAINING_FOLDER}/, '
                f'{LABEL_FOLDER}/ and {FILTER_FOLDER}/labels-.../, and their '
                'names are made of letters, digits, _ and - before one dot'
            )
        return f'{match[1]}{kind}{match[2]}'

    def place(self, member: str) -> Place:
        """Return where a member of a packed set is.

        Raises:
            BankError: The index does not have it.
        """
        place = self._places.get(member)
        if place is None:
            raise BankError(
                f'{self.root}: the indices of the shards do not have '
                f'{member}, which the manifest names. {_ADVICE}'
            )
        return place

    def size(self, name: str) -> int | None:
        """Return the bytes of a file; None without file."""
        if not self.packed:
            return self._stored(name)
        place = self._places.get(self.member(name))
        return None if place is None else place.size

    def _stored(self, name):
        """Return the bytes of what is stored under a name, or None."""
        if is_address(self.root):
            return self._listed.get(name)
        try:
            return os.path.getsize(os.path.join(self.root, name))
        except OSError:
            return None

    @cached_property
    def _listed(self):
        return list_below(self.root)

    def _read_places(self):
        if self._stored(MANIFEST_FILE) is None:
            raise BankError(
                f'{self.root} lacks {MANIFEST_FILE}, which is written last: '
                'the command clouds pack was stopped. Run it again; it '
                'continues'
            )
        pack, places = read_pack(self.root), {}
        manifest = fileio.get(os.path.join(self.root, MANIFEST_FILE))
        if hashlib.sha256(manifest).hexdigest() != pack['manifest']:
            raise BankError(
                f'{self.root}: {MANIFEST_FILE} is not the one that was packed '
                f'({PACK_FILE} has its hash). Copy both again, or pack the '
                'image set again.'
            )
        for shard in pack['shards']:
            places.update(self._read_index(**shard))
        return places

    def _read_index(self, name, bytes, images):
        """Return member -> place of the members of a shard."""
        shard = os.path.join(self.root, name)
        there = self._stored(name)
        if there != bytes:
            found = 'is missing' if there is None else f'has {there} bytes'
            raise BankError(
                f'{shard} {found}, {PACK_FILE} says {bytes} bytes. {_ADVICE}'
            )
        path = os.path.join(self.root, index_name(name))
        try:
            return _parse_index(fileio.get(path), name, bytes, images)
        except (OSError, ValueError) as error:
            raise BankError(
                f'{path}, the index of {name}, cannot be used: {error}. '
                f'{_ADVICE}'
            ) from error


def is_packed(root: str | Path) -> bool:
    """Tell whether a folder or address is a packed image set."""
    return fileio.isfile(os.path.join(root, PACK_FILE))


def refuse_packed(root: str | Path) -> None:
    """Refuse to change an image set that is packed.

    Raises:
        BankError: It is.
    """
    if is_packed(root):
        raise BankError(
            f'{root} is a packed image set, which can be read but not '
            'changed. Unpack it first: clouds pack --unpack '
            f'{root} --out FOLDER'
        )


def read_pack(root: str | Path) -> dict:
    """Read the list of the shards of a packed image set.

    Args:
        root: Folder or address.

    Returns:
        ``format``; ``manifest``, the SHA-256 of the manifest that was packed;
        and ``shards``, each with ``name``, ``bytes`` and ``images``.

    Raises:
        BankError: It cannot be read, or is something else.
    """
    path = os.path.join(root, PACK_FILE)
    try:
        pack = parse_json(fileio.get(path))
        if not isinstance(pack, dict) or pack.get('format') != PACK_FORMAT:
            raise ValueError(f'its format is not {PACK_FORMAT}')
        if not isinstance(pack['manifest'], str):
            raise ValueError(f'its manifest is {pack["manifest"]!r}')
        for number, shard in enumerate(pack['shards']):
            if set(shard) != {'name', 'bytes', 'images'}:
                raise ValueError(f'shard {number} is {shard!r}')
            if shard['name'] != shard_name(number):
                raise ValueError(
                    f'shard {number} has the name {shard["name"]!r} in place '
                    f'of {shard_name(number)!r}'
                )
            for key in ('bytes', 'images'):
                if type(shard[key]) is not int or shard[key] < 1:
                    raise ValueError(f'its {key} are {shard[key]!r}')
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BankError(
            f'{path} does not list the shards of an image set ({error}). '
            'Copy it again, or pack the image set again.'
        ) from error
    return pack


def shard_name(number: int) -> str:
    """Return the file name of a shard."""
    return f'shard-{number:06d}.tar'


def index_name(shard: str) -> str:
    """Return the file name of the index of a shard."""
    return f'{shard.removesuffix(".tar")}.idx'


def plain_path(path: str) -> str:
    """Return a path without the offset that it has in a packed set.

    Args:
        path: Of an image; one of a plain set is returned as it is.
    """
    match = _PATH.fullmatch(path)
    return path if match is None else f'{os.path.dirname(match[2])}/{match[5]}'


def padded(size: int) -> int:
    """Return the bytes that a member of a size takes in a tar."""
    return -(-size // BLOCK) * BLOCK


def read_member(shard: str, place: Place, member: str) -> bytes:
    """Read a member of a shard, and check that it is the one that is meant.

    Args:
        shard: Path or address of the shard.
        place: Of the member.
        member: Its name.

    Raises:
        DataError: The shard cannot be read or breaks off, or has something
            else there.
    """
    # The header stands in the block before: it costs no second read.
    start, length = place.offset - BLOCK, place.size + BLOCK
    try:
        if is_address(shard):
            payload = read_range(shard, start, length)
        else:
            with open(shard, 'rb') as stream:
                stream.seek(start)
                payload = stream.read(length)
    except OSError as error:
        raise DataError(
            f'{shard}: its member {member} cannot be read: '
            f'{error.strerror or error}.',
            _ADVICE,
        ) from error
    if len(payload) < length:
        raise DataError(
            f'{shard} breaks off: of its member {member}, '
            f'{max(len(payload) - BLOCK, 0)} of {place.size} bytes are there.',
            _ADVICE,
        )
    try:
        found = tarfile.TarInfo.frombuf(payload[:BLOCK], 'utf-8', 'strict')
        there = found.isreg() and (found.name, found.size) == (
            member,
            place.size,
        )
    except (tarfile.HeaderError, ValueError):
        there = False
    if not there:
        raise DataError(
            f'{shard}: at byte {place.offset} there is no member {member} of '
            f'{place.size} bytes: its index is that of another file, or one '
            'of the two is damaged.',
            _ADVICE,
        )
    return payload[BLOCK:]


def _parse_index(content, shard, length, images):
    """Parse an index of the form ``ext offset size name ...``, by sample."""
    head, *lines = content.decode('ascii').splitlines()
    if head != f'{INDEX_HEAD} {images}' or len(lines) != images:
        raise ValueError(
            f'it has {len(lines)} of {images} samples, and begins with '
            f'{head[:40]!r}'
        )
    places = {}
    for number, line in enumerate(lines, 2):
        words = line.split(' ')
        for i in range(0, len(words), 4):
            _, offset, size, member = words[i : i + 4]
            place = Place(shard, int(offset), int(size))
            if (
                not re.fullmatch(_MEMBER, member)
                or place.offset < BLOCK
                or place.offset % BLOCK
                or place.size < 0
                or place.offset + place.size > length
                or member in places
            ):
                raise ValueError(
                    f'line {number} has {member[:80]!r} at byte {offset}, '
                    f'{size} bytes'
                )
            places[member] = place
    return places


@register_backend(
    'tar', prefixes=['tar', *(f'tar+{s}' for s in SCHEMES)], force=True
)
class TarBackend(BaseStorageBackend):
    """File backend of mmengine for the members of packed image sets.

    See :meth:`SetFiles.path` for the paths that it reads.
    """

    def get(self, filepath: str | Path) -> bytes:
        """Read a member.

        Raises:
            DataError: See :func:`read_member`; or the path is none.
        """
        match = _PATH.fullmatch(str(filepath))
        if match is None:
            raise DataError(
                f'{filepath} is no path of a member of a packed image set.'
            )
        scheme, shard, offset, size, member = match.groups()
        if scheme is not None:
            shard = f'{scheme}://{shard}'
        place = Place(os.path.basename(shard), int(offset), int(size))
        return read_member(shard, place, member)

    def get_text(self, filepath: str | Path, encoding: str = 'utf-8') -> str:
        """Read a member that is text."""
        return self.get(filepath).decode(encoding)
