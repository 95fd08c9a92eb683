"""Cut a zip archive into volumes as its specification says."""

import bisect
import struct


def cut_zip(data, cuts, *, wide=False):
    """Return the volumes of an archive.

    Args:
        data (bytes): An ordinary zip archive without comment.
        cuts (list[int]): Where volumes begin, before its directory.
        wide (bool): Whether to write the fields of Zip64.
    """
    end = data.rfind(b'PK\x05\x06')
    total, size, start = struct.unpack_from('<HLL', data, end + 10)
    starts = [0, *sorted(cuts)]

    def place(position):
        volume = bisect.bisect_right(starts, position) - 1
        return volume, position - starts[volume]

    out, at = bytearray(data[:start]), start
    for _ in range(total):
        entry = bytearray(data[at : at + 46])
        lengths = struct.unpack_from('<3H', entry, 28)
        rest = data[at + 46 : at + 46 + sum(lengths)]
        at += 46 + sum(lengths)
        volume, offset = place(struct.unpack_from('<L', entry, 42)[0])
        if wide:
            packed, plain = struct.unpack_from('<2L', entry, 20)
            extra = struct.pack('<2H3QL', 1, 28, plain, packed, offset, volume)
            struct.pack_into('<2L', entry, 20, 2**32 - 1, 2**32 - 1)
            struct.pack_into('<H', entry, 30, lengths[1] + len(extra))
            volume, offset = 0xFFFF, 2**32 - 1
            rest = rest[: lengths[0]] + extra + rest[lengths[0] :]
        struct.pack_into('<H', entry, 34, volume)
        struct.pack_into('<L', entry, 42, offset)
        out += entry + rest
    size, last = len(out) - start, len(starts) - 1
    volume, offset = place(start)
    if wide:
        here = place(len(out))
        out += struct.pack(
            '<4sQ2H2L4Q', b'PK\x06\x06', 44, 45, 45, last, volume, total,
            total, size, offset,
        )  # fmt: skip
        out += struct.pack('<4sLQL', b'PK\x06\x07', *here, last + 1)
        volume = total = 0xFFFF
        size = offset = 2**32 - 1
    out += struct.pack(
        '<4s4H2LH', b'PK\x05\x06', 0xFFFF if wide else last, volume, total,
        total, size, offset, 0,
    )  # fmt: skip
    return [
        bytes(out[a:b])
        for a, b in zip(starts, [*starts[1:], None], strict=True)
    ]
