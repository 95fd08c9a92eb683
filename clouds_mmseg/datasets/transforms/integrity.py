"""A cheap test for image files that break off."""

import os

from clouds_mmseg.datasets.errors import DataError

_PNG = b'\x89PNG\r\n\x1a\n'
_PNG_END = b'IEND\xaeB\x60\x82'
_JPEG = b'\xff\xd8\xff'
_JPEG_END = b'\xff\xd9'
# Some writers append a few bytes of their own after the end marker.
_TAIL = 4096


def require_complete(path, kind):
    """Check that a PNG or JPEG file has its end, a BMP or WebP its length.

    Only the head and the tail of the file are read. Files of other formats
    and of remote storage pass.

    Args:
        path (str): The file.
        kind (str): 'image' or 'label', for the message.

    Raises:
        DataError: The file does not exist, is empty or breaks off.
    """
    path = str(path)
    if '://' in path:
        return
    advice = "Replace the file, or name its image in the dataset's skip list."
    try:
        with open(path, 'rb') as stream:
            problem = incomplete(stream)
    except OSError as error:
        raise DataError(
            f'{kind} {path} cannot be read: {error.strerror}.', advice
        ) from error
    if problem:
        raise DataError(f'{kind} {path} {problem}.', advice)


def incomplete(stream):
    """Say what is missing in a PNG, JPEG, BMP or WebP file.

    Args:
        stream (BinaryIO): The file.

    Returns:
        str | None: What is wrong, to follow the file's name; None for a
        whole file and for other formats.
    """
    head = stream.read(12)
    size = stream.seek(0, os.SEEK_END)
    if not size:
        return 'is empty (0 bytes)'
    stream.seek(max(0, size - _TAIL))
    tail = stream.read()
    length = _length(head)
    if size < length:
        return f'is truncated: it has {size} of its {length} bytes'
    for start, end in ((_PNG, _PNG_END), (_JPEG, _JPEG_END)):
        if head.startswith(start) and end not in tail:
            return f'is truncated: its {size} bytes lack the end marker'
    return None


def _length(head):
    """Return the length that a file should have; 0 if it does not tell."""
    if head.startswith(b'BM'):
        return int.from_bytes(head[2:6], 'little')
    if head.startswith(b'RIFF') and head.endswith(b'WEBP'):
        return int.from_bytes(head[4:8], 'little') + 8
    return 0
