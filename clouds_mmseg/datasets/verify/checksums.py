"""The checksums that PNG files carry."""

import zlib

_SIGNATURE = b'\x89PNG\r\n\x1a\n'


def damaged_chunk(payload):
    """Find the first chunk of a PNG whose checksum is wrong.

    Decoders differ in what they check: Pillow reads a label with a flipped
    bit into other class ids and says nothing. JPEG files have no checksums.

    Args:
        payload (bytes): A whole file. Other formats pass.

    Returns:
        str | None: The chunk's name, ``'end'`` if the file breaks off inside
        of one; None if all is well.

    Source: PNG specification (W3C, third edition), section 5.3.
    """
    if not payload.startswith(_SIGNATURE):
        return None
    view = memoryview(payload)
    place = len(_SIGNATURE)
    while place < len(payload):
        # length (4), type (4), data (length), CRC of type and data (4)
        length = int.from_bytes(view[place : place + 4], 'big')
        end = place + 12 + length
        if end > len(payload):
            return 'end'
        stored = int.from_bytes(view[end - 4 : end], 'big')
        name = bytes(view[place + 4 : place + 8])
        if zlib.crc32(view[place + 4 : end - 4]) != stored:
            return name.decode('latin-1')
        if name == b'IEND':
            # Some writers append bytes of their own.
            return None
        place = end
    return 'end'
