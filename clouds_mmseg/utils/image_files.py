"""Integrity checks of image files by their bytes, without decoding.

A check here must never be stricter than the decoders: bytes behind the end of
a file (motion photos, several images in one file) and damaged metadata are
no damage to its pixels.
"""

import os
import re
import zlib
from pathlib import Path
from typing import BinaryIO

# By which the images of a folder are told from its other files.
IMAGE_SUFFIXES = (
    *('.jpg', '.jpeg', '.png', '.bmp', '.webp', '.tif', '.tiff'),
    *('.ppm', '.pgm', '.avif'),
)
PNG = b'\x89PNG\r\n\x1a\n'
JPEG = b'\xff\xd8\xff'
_PNG_END = b'IEND'
_JPEG_END = b'\xff\xd9'
_TAIL = 4096
# Of deflate: no data become shorter by a greater factor.
_DEFLATE = 1032
# A marker inside of the compressed data of a JPEG: FF 00 is a stuffed byte,
# FF D0 to D7 are restart markers, FF FF is fill.
_MARKER = re.compile(rb'\xff[^\x00\xd0-\xd7\xff]')
_SOI, _EOI, _SOS = 0xD8, 0xD9, 0xDA
_PROGRESSIVE = 0xC2
_FRAMES = (b'\xc0', b'\xc1', b'\xc2')
# Chunks whose damage changes no pixel; decoders skip them.
_METADATA = frozenset(
    b'IEND tEXt zTXt iTXt eXIf gAMA cHRM sRGB iCCP pHYs tIME bKGD hIST sBIT '
    b'sPLT cICP mDCV cLLI acTL fcTL fdAT oFFs pCAL sCAL sTER vpAg caNv '
    b'orNT dSIG tRNS'.split()
)


def images_below(
    folder: Path, suffixes: tuple[str, ...] = IMAGE_SUFFIXES
) -> list[Path]:
    """List the images of a folder and its sub-folders by their suffixes.

    Hidden files are left out: macOS writes ``._0.png`` beside ``0.png``, and
    unfinished files of :mod:`clouds_mmseg.utils.atomic` are hidden.

    Args:
        folder: The folder.
        suffixes: Lower case, with their dots.

    Returns:
        Sorted.
    """
    return sorted(
        path
        for path in folder.rglob('*')
        if path.suffix.lower() in suffixes and not path.name.startswith('.')
    )


def truncated(payload: bytes) -> str | None:
    """Say what is missing in a PNG, JPEG, BMP or WebP file.

    That is also the pixels which the header of a PNG or JPEG promises, where
    no compression could have put them into so few bytes.

    Args:
        payload: The file.

    Returns:
        What is wrong, to follow the file's name; None for a
        whole file and for other formats.
    """
    size = len(payload)
    if not size:
        return 'is empty (0 bytes)'
    expected = _length(payload[:64])
    if size < expected:
        return f'is truncated: it has {size} of its {expected} bytes'
    if payload.startswith(PNG):
        whole = _has_png_end(payload)
    elif payload.startswith(JPEG):
        whole = jpeg_end(payload) >= 0
    else:
        return None
    if not whole:
        return f'is truncated: its {size} bytes lack the end marker'
    width, height, bits = _frame(payload)
    if width * height * bits > 8 * size:
        return (
            f'is {width}x{height} pixels by its header, which its {size} '
            'bytes cannot hold'
        )
    return None


def _frame(payload):
    """Width, height and the least bits of a pixel of a whole PNG or JPEG.

    A damaged header makes decoders ask for gigabytes.
    """
    if payload.startswith(PNG):
        width, height = (
            int.from_bytes(payload[place : place + 4], 'big')
            for place in (16, 20)
        )
        # Bits of a sample, and samples of a pixel by the colour type.
        samples = {2: 3, 4: 2, 6: 4}.get(payload[25], 1)
        return width, height, payload[24] * samples / _DEFLATE
    place = _frame_place(payload)
    if place is None:
        return 0, 0, 0
    height, width = (
        int.from_bytes(payload[at : at + 2], 'big')
        for at in (place + 5, place + 7)
    )
    # A bit for each block of 8x8 pixels.
    return width, height, 1 / 64


def truncated_file(stream: BinaryIO) -> str | None:
    """Do as :func:`truncated`, reading no more of a file than is needed.

    Args:
        stream: The file.

    Returns:
        As :func:`truncated`.
    """
    head = stream.read(64)
    size = stream.seek(0, os.SEEK_END)
    stream.seek(max(0, size - _TAIL))
    tail = stream.read()
    ends = (PNG, _PNG_END), (JPEG, _JPEG_END)
    if any(head.startswith(start) and end in tail for start, end in ends):
        return None
    stream.seek(0)
    return truncated(stream.read())


def _length(head):
    """The least length that a file must have; 0 if it does not tell."""

    def number(place, size=4):
        return int.from_bytes(head[place : place + size], 'little')

    if head.startswith(b'BM') and len(head) >= 34 and number(14) >= 40:
        # The length in the header is often wrong, and nobody reads it.
        if number(30) == 0:
            height = number(22)
            height = min(height, 2**32 - height)
            row = (number(18) * number(28, 2) + 31) // 32 * 4
            return number(10) + row * height
    if head.startswith(b'RIFF') and head[8:12] == b'WEBP':
        return number(4) + 8
    return 0


def jpeg_end(payload: bytes) -> int:
    """Find the end marker of the first image in a JPEG file.

    Args:
        payload: The file.

    Returns:
        Place of the marker, -1 if there is none. Thumbnails inside of
        the metadata and images behind the first one do not count.

    Source: ITU-T T.81, annex B.
    """
    place, size = 2, len(payload)
    while place + 2 <= size:
        if payload[place] != 0xFF:
            # Decoders skip what stands between segments.
            place = payload.find(b'\xff', place)
            if place < 0:
                return -1
            continue
        marker = payload[place + 1]
        if marker == _EOI:
            return place
        if marker == _SOI:
            # Another picture begins before this one has ended.
            return -1
        if marker in (0x00, 0x01, 0xFF) or 0xD0 <= marker <= 0xD7:
            place += 1 if marker == 0xFF else 2
            continue
        length = int.from_bytes(payload[place + 2 : place + 4], 'big')
        place += 2 + length
        if marker == _SOS:
            match = _MARKER.search(payload, place)
            if match is None:
                return -1
            place = match.start()
    return -1


def is_progressive(payload: bytes) -> bool:
    """Whether a file is a JPEG whose pixels come in several scans.

    Args:
        payload: The file.

    Returns:
        False for all other files.
    """
    if not payload.startswith(JPEG):
        return False
    place = _frame_place(payload)
    return place is not None and payload[place + 1] == _PROGRESSIVE


def _frame_place(payload):
    """Find the marker of a JPEG that its size follows; None if none."""
    place = 2
    while payload[place : place + 1] == b'\xff':
        if payload[place + 1 : place + 2] in _FRAMES:
            return place
        length = int.from_bytes(payload[place + 2 : place + 4], 'big')
        place += 2 + length
    return None


def _png_chunks(payload):
    """Yield name, start, end of each chunk and whether its CRC is right."""
    view = memoryview(payload)
    place = len(PNG)
    while place + 12 <= len(payload):
        # length (4), type (4), data (length), CRC of type and data (4)
        length = int.from_bytes(view[place : place + 4], 'big')
        end = place + 12 + length
        if end > len(payload):
            return
        name = bytes(view[place + 4 : place + 8])
        stored = int.from_bytes(view[end - 4 : end], 'big')
        right = zlib.crc32(view[place + 4 : end - 4]) == stored
        yield name, place, end, right
        if name == _PNG_END:
            # Some writers append bytes of their own.
            return
        place = end


def _has_png_end(payload):
    """Whether the chunks of a PNG lead to its end; no checksums."""
    place = len(PNG)
    while place + 12 <= len(payload):
        if payload[place + 4 : place + 8] == _PNG_END:
            return True
        place += 12 + int.from_bytes(payload[place : place + 4], 'big')
    return False


def png_chunks(payload: bytes) -> list[tuple[bytes, bytes]]:
    """List the chunks of a PNG file.

    Args:
        payload: The file.

    Returns:
        Name and data of each whole chunk whose
        checksum is right.
    """
    return [
        (name, payload[start + 8 : end - 4])
        for name, start, end, right in _png_chunks(payload)
        if right
    ]


def damaged_chunk(payload: bytes) -> str | None:
    """Find the first chunk of a PNG whose pixels cannot be trusted.

    Decoders differ in what they check: Pillow reads a label with a flipped
    bit into other class ids and says nothing. JPEG files have no checksums.
    A wrong checksum of metadata (text, gamma, alpha, the end itself) is no
    damage: decoders read such files well.

    Args:
        payload: A whole file. Other formats pass.

    Returns:
        The chunk's name, ``'end'`` if the file breaks off inside
        of one; None if all is well.

    Source: PNG specification (W3C, third edition), section 5.3.
    """
    if not payload.startswith(PNG):
        return None
    for name, _, _, right in _png_chunks(payload):
        if not right and name not in _METADATA:
            return name.decode('latin-1')
        if name == _PNG_END:
            return None
    return 'end'


def without_damaged_chunks(payload: bytes) -> bytes:
    """Leave out the metadata of a PNG whose checksums are wrong.

    Pillow refuses files for them that OpenCV reads.

    Args:
        payload: Any file.

    Returns:
        The same file if there is nothing to leave out.
    """
    if not payload.startswith(PNG):
        return payload
    bad = [
        (start, end)
        for name, start, end, right in _png_chunks(payload)
        if not right and name in _METADATA and name != _PNG_END
    ]
    for start, end in reversed(bad):
        payload = payload[:start] + payload[end:]
    return payload
