"""Packing of an image set into the tar shards of WebDataset, and back.

The same set gives the same bytes: shards hold no times and no owners. What is
written appears whole, the manifest last; a stopped command continues.
"""

import hashlib
import io
import json
import math
import os
import re
import tarfile
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

from mmengine import fileio
from tqdm import tqdm

from clouds_mmseg.generate.image_bank import encode_entry
from clouds_mmseg.utils.atomic import atomic_path
from clouds_mmseg.utils.errors import UserError
from clouds_mmseg.utils.image_set import (
    BANK_FILE,
    FILTER_FOLDER,
    MANIFEST_FILE,
    BankError,
    read_complete,
)
from clouds_mmseg.utils.packed_set import (
    BLOCK,
    INDEX_HEAD,
    PACK_FILE,
    PACK_FORMAT,
    SetFiles,
    index_name,
    padded,
    read_member,
    read_pack,
    refuse_packed,
    shard_name,
)
from clouds_mmseg.utils.remote import (
    is_address,
    list_files,
    written_locally,
)

# Files beside the shards; what a filter keeps in folders of its own is either
# in the shards or can be made again.
_BESIDE = re.compile(rf'(?:{FILTER_FOLDER}/)?[^/]+')
_OF_PACK = re.compile(
    rf'shard-[0-9]+\.(?:tar|idx)|{re.escape(PACK_FILE)}'
    rf'|{re.escape(MANIFEST_FILE)}'
)


class PackSummary(NamedTuple):
    """Result of packing or unpacking.

    Attributes:
        images: Of the set.
        shards: Of the packed set.
        size: Bytes of the shards.
        existing: Shards that were packed, or images that were unpacked,
            by an earlier call of the same command.
    """

    images: int
    shards: int
    size: int
    existing: int


class _Part(NamedTuple):
    """A member of a shard.

    Attributes:
        member: Its name.
        size: Bytes.
        name: Of the file in the set; empty for the entry itself.
        sha256: Of its content, where the manifest has it.
    """

    member: str
    size: int
    name: str
    sha256: str | None


def pack_images(
    bank: str | Path, out: str | Path, *, shard_mb: float = 500
) -> PackSummary:
    """Pack a complete image set into shards.

    The intermediate results of a filter (``filter/measures``, ``losses`` and
    ``given_labels``) are left out; its decisions and labels are not.

    Args:
        bank: Folder of the set, or its address.
        out: New folder or address of the packed set, or one at which the same
            command was stopped.
        shard_mb: Largest size of a shard, in 10**6 bytes; an image that is
            larger has a shard of its own.

    Raises:
        UserError: The set is unfinished, packed or damaged; ``out`` holds
            something else; or the size is not positive.
    """
    bank, out = str(bank), str(out)
    if not 0 < shard_mb < math.inf:
        raise UserError(f'--shard-size must be above 0, got {shard_mb:g}')
    refuse_packed(bank)
    entries = read_complete(bank)[1]
    files = SetFiles(bank)
    shards = _divide(entries.values(), files, shard_mb * 1e6)
    manifest = fileio.get(os.path.join(bank, MANIFEST_FILE))
    pack = dict(
        format=PACK_FORMAT,
        manifest=hashlib.sha256(manifest).hexdigest(),
        shards=[
            dict(name=shard_name(number), bytes=size, images=len(content))
            for number, (content, size) in enumerate(shards)
        ],
    )
    text = json.dumps(pack, indent=1) + '\n'
    there = list_files(out)
    _begin(out, there, PACK_FILE, text.encode())
    _copy_others(bank, out)
    existing = 0
    bar = tqdm(total=len(entries), desc='pack', unit='img', disable=None)
    with bar:
        for number, (content, size) in enumerate(shards):
            shard = shard_name(number)
            if there.get(shard) == size and index_name(shard) in there:
                existing += 1
            else:
                with _written(os.path.join(out, shard)) as path:
                    index = _write_shard(path, content, files)
                # After the shard: where an index is, the shard is whole.
                _write(os.path.join(out, index_name(shard)), index)
            bar.update(len(content))
    _write(os.path.join(out, MANIFEST_FILE), manifest)
    size = sum(size for _, size in shards)
    return PackSummary(len(entries), len(shards), size, existing)


def unpack_images(packed: str | Path, out: str | Path) -> PackSummary:
    """Write a packed image set as plain files, with all bytes as they were.

    Args:
        packed: Folder of the packed set, or its address.
        out: New folder, or one at which the same command was stopped.

    Raises:
        UserError: The set is not packed or is damaged, or ``out`` holds
            something else or is an address.
    """
    packed, out = str(packed), str(out)
    if is_address(out):
        raise UserError(
            f'--unpack writes to a folder, got the address {out}: the tools '
            'of the store copy a folder there'
        )
    files = SetFiles(packed)
    if not files.packed:
        raise UserError(
            f'{packed} is no packed image set: it has no {PACK_FILE}. Without '
            '--unpack, clouds pack packs one'
        )
    entries = read_complete(packed)[1]
    manifest = fileio.get(os.path.join(packed, MANIFEST_FILE))
    there = list_files(out)
    _begin(out, there, BANK_FILE, fileio.get(os.path.join(packed, BANK_FILE)))
    if MANIFEST_FILE in there:
        _begin(out, there, MANIFEST_FILE, manifest)
    existing, shard = 0, ''
    bar = tqdm(entries.values(), desc='unpack', unit='img', disable=None)
    with ExitStack() as copies:
        for entry in bar:
            parts = _parts(entry, files)
            missing = [p for p in parts[:-1] if there.get(p.name) != p.size]
            if not missing:
                existing += 1
                continue
            first = files.place(parts[0].member).shard
            if first != shard:
                shard = first
                copies.close()
                # Of a store: read as a whole, not member by member.
                local = copies.enter_context(
                    fileio.get_local_path(os.path.join(packed, shard))
                )
            _check_entry(parts[-1], entry, files, local)
            for part in missing:
                place = files.place(part.member)
                payload = read_member(local, place, part.member)
                _check_hash(payload, part, files)
                _write(os.path.join(out, part.name), payload)
    _copy_others(packed, out)
    _write(os.path.join(out, MANIFEST_FILE), manifest)
    shards = read_pack(packed)['shards']
    size = sum(shard['bytes'] for shard in shards)
    return PackSummary(len(entries), len(shards), size, existing)


def _parts(entry: dict, files: SetFiles) -> list[_Part]:
    """Return the members of an image in their order, its entry the last."""
    names = {
        entry['file']: entry['sha256'],
        entry.get('label'): entry.get('label_sha256'),
        entry.get('evaluation_label'): None,
        entry.get('filter', {}).get('label'): None,
    }
    parts = []
    for name, sha256 in names.items():
        if name is None:
            continue
        member = files.member(name)
        size, said = files.size(name), entry['bytes']
        if size is None or (name == entry['file'] and size != said):
            problem = f'has {size} bytes, the manifest says {said}'
            raise BankError(
                f'{name} of the image set {files.root} '
                f'{"is missing" if size is None else problem}: copy the set '
                'again, or run the command that made it with --verify'
            )
        parts.append(_Part(member, size, name, sha256))
    key = parts[0].member.partition('.')[0]
    parts.append(_Part(f'{key}.json', len(encode_entry(entry)), '', None))
    return parts


def _divide(
    entries: Iterable[dict], files: SetFiles, limit: float
) -> list[tuple[list[dict], int]]:
    """Cut a set into shards: the entries and the bytes of each."""
    shards: list[tuple[list[dict], int]] = []
    content: list[dict] = []
    used, keys = 0, set()
    for entry in entries:
        parts = _parts(entry, files)
        key = parts[-1].member
        if key in keys:
            raise BankError(
                f'two images of the image set {files.root} have the name '
                f'{entry["file"]}, or differ in its suffix alone'
            )
        keys.add(key)
        more = sum(BLOCK + padded(part.size) for part in parts)
        if content and _tar_size(used + more) > limit:
            shards.append((content, _tar_size(used)))
            content, used = [], 0
        content.append(entry)
        used += more
    if content:
        shards.append((content, _tar_size(used)))
    return shards


def _tar_size(used: int) -> int:
    """Return the bytes of a tar with so many bytes of members."""
    end = 2 * BLOCK
    return -(-(used + end) // tarfile.RECORDSIZE) * tarfile.RECORDSIZE


def _write_shard(path: Path, entries: list[dict], files: SetFiles) -> bytes:
    """Write a shard and return its index."""
    lines, place = [f'{INDEX_HEAD} {len(entries)}'], 0
    with tarfile.open(path, 'w', format=tarfile.USTAR_FORMAT) as archive:
        for entry in entries:
            words: list[str | int] = []
            for part in _parts(entry, files):
                payload = encode_entry(entry)
                if part.name:
                    payload = fileio.get(files.path(part.name))
                    _check_hash(payload, part, files)
                info = tarfile.TarInfo(part.member)
                info.size = len(payload)
                archive.addfile(info, io.BytesIO(payload))
                kind = part.member.partition('.')[2]
                words += [kind, place + BLOCK, part.size, part.member]
                place += BLOCK + padded(part.size)
            lines.append(' '.join(map(str, words)))
    return ('\n'.join(lines) + '\n').encode()


def _check_hash(payload: bytes, part: _Part, files: SetFiles) -> None:
    """Refuse a file that has changed since the manifest was written."""
    if len(payload) == part.size and part.sha256 in (
        None,
        hashlib.sha256(payload).hexdigest(),
    ):
        return
    raise BankError(
        f'{part.name} ({part.member}) of the image set {files.root} is not '
        'what its manifest says: copy the set again, or run the command that '
        'made it with --verify'
    )


def _check_entry(
    part: _Part, entry: dict, files: SetFiles, shard: str
) -> None:
    """Refuse a shard in which an image has another entry."""
    payload = read_member(shard, files.place(part.member), part.member)
    if payload != encode_entry(entry):
        raise BankError(
            f'{part.member} in {files.place(part.member).shard} of '
            f'{files.root} is not the entry that {MANIFEST_FILE} has: shard '
            'and manifest are of two states of the set. Pack it again'
        )


def _begin(out: str, there: dict[str, int], name: str, payload: bytes) -> None:
    """Write the first file of a folder, or compare it with an earlier one."""
    path = os.path.join(out, name)
    if not there:
        _write(path, payload)
    elif name not in there:
        raise UserError(
            f'{out} holds files, but no {name}. Name a new or empty folder.'
        )
    elif fileio.get(path) != payload:
        raise UserError(
            f'{path} is not what this command writes: the folder holds '
            'another image set, another state of this one, or one that was '
            'packed with another --shard-size. Name a new or empty folder, '
            'or delete this one.'
        )


def _copy_others(source: str, target: str) -> None:
    """Copy description, sheets and settings of a filter."""
    for name in list_files(source):
        if _BESIDE.fullmatch(name) and not _OF_PACK.fullmatch(name):
            _write(
                os.path.join(target, name),
                fileio.get(os.path.join(source, name)),
            )


def _write(target: str, payload: bytes) -> None:
    with _written(target) as path:
        path.write_bytes(payload)


@contextmanager
def _written(target: str) -> Iterator[Path]:
    """Yield the path of a file that appears whole at a path or address."""
    if is_address(target):
        with written_locally(target) as path:
            yield Path(path)
    else:
        with atomic_path(target) as local:
            yield local
