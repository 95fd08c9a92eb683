"""Zip archives in volumes: ``name.z01``, ``name.z02``, ..., ``name.zip``.

Entries of such an archive say in which volume they begin, which Python's
``zipfile`` does not read. Here the volumes are joined and a directory is put
behind them in which every entry has its place in the whole.

Source: PKWARE, ".ZIP File Format Specification" (APPNOTE.TXT), section 4.3.
"""

import io
import struct

from clouds_mmseg.datasets.prepare.joined import JoinedFile

_END = struct.Struct('<4s4H2LH')
_LOCATOR = struct.Struct('<4sLQL')
_END64 = struct.Struct('<4sQ2H2L4Q')
_ENTRY = struct.Struct('<4s6H3L5H2L')
_SHORT, _LONG = 0xFFFF, 0xFFFFFFFF
_ZIP64 = 1


class SplitZipError(ValueError):
    """The volumes are not those of one archive."""


def volume_number(path):
    """Number of the volume that a zip file's end says it is.

    Args:
        path (str): The file that ends in ``.zip``.

    Returns:
        int: 0 for an ordinary archive, n if n volumes come before it, and
        -1 if the file has no directory.
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


def join_volumes(paths):
    """Open the volumes of an archive as one ordinary zip file.

    Args:
        paths (Sequence[str]): ``name.z01``, ``name.z02``, ..., ``name.zip``.

    Returns:
        JoinedFile: For :class:`zipfile.ZipFile`.

    Raises:
        SplitZipError: The volumes do not fit together.
    """
    whole = JoinedFile(paths)
    try:
        entries = _read_directory(whole, len(paths))
        tail = _write_directory(entries, whole.size)
    except struct.error as error:
        raise SplitZipError(f'the directory is damaged: {error}') from error
    finally:
        whole.close()
    return JoinedFile(paths, tail)


def _find_end(stream):
    """Return position and fields of the end record, or None."""
    size = stream.seek(0, io.SEEK_END)
    # Behind it stands only a comment of at most 64 KiB.
    start = max(0, size - _END.size - 0xFFFF)
    stream.seek(start)
    data = stream.read()
    found = data.rfind(b'PK\x05\x06')
    if found < 0 or found + _END.size > len(data):
        return None
    return start + found, _END.unpack_from(data, found)


def _read_at(stream, position, count):
    stream.seek(position)
    data = stream.read(count)
    if len(data) < count:
        raise SplitZipError('a volume is missing or too short')
    return data


def _read_directory(whole, volumes):
    """Return fields, name, extra field and comment of each entry."""
    end = _find_end(whole)
    if end is None:
        raise SplitZipError('the last volume has no directory')
    position, (_, last, first, _, total, size, offset, _) = end
    data = _read_at(whole, max(0, position - _LOCATOR.size), _LOCATOR.size)
    if data[:4] == b'PK\x06\x07':
        _, disk, place, disks = _LOCATOR.unpack(data)
        last = disks - 1
        if disk < volumes:
            record = _read_at(whole, whole.starts[disk] + place, _END64.size)
            fields = _END64.unpack(record)
            first, total, size, offset = fields[5], *fields[7:]
    if last != volumes - 1:
        raise SplitZipError(
            f'the archive has {last + 1} volumes, found {volumes}'
        )
    data = _read_at(whole, whole.starts[first] + offset, size)
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
        _move(fields, extra, whole.starts[:volumes])
        entries.append((fields, name, _without_zip64(extra), comment))
    return entries


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


def _move(fields, extra, starts):
    """Replace volume and offset of an entry by its place in the whole."""
    wide = dict(_extra_fields(extra)).get(_ZIP64, b'')
    at = 0
    # In this order, and only those that do not fit: size, packed size,
    # offset, volume.
    for index, mark, code in (
        (9, _LONG, '<Q'),
        (8, _LONG, '<Q'),
        (16, _LONG, '<Q'),
        (13, _SHORT, '<L'),
    ):
        if fields[index] == mark:
            (fields[index],) = struct.unpack_from(code, wide, at)
            at += struct.calcsize(code)
    if fields[13] >= len(starts):
        raise SplitZipError(f'an entry begins in volume {fields[13] + 1}')
    fields[16] += starts[fields[13]]
    fields[13] = 0


def _write_directory(entries, start):
    """Return a directory that lies at ``start``, with its end records."""
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
