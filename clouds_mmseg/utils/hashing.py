"""Content hashes of arrays, tensors and settings."""

import hashlib
from pathlib import Path

import numpy as np

_BYTES = 16


def hash_array(array: np.ndarray) -> str:
    """Hash the values, the shape and the dtype of an array.

    Args:
        array: Any shape, any dtype but object.

    Returns:
        32 hexadecimal digits.
    """
    array = np.ascontiguousarray(array)
    digest = hashlib.blake2b(
        f'{array.dtype.str}{array.shape}'.encode(), digest_size=_BYTES
    )
    digest.update(array.data)
    return digest.hexdigest()


def hash_text(*parts: object) -> str:
    """Hash values by their ``str``; order and separation count.

    Args:
        *parts: Values whose ``str`` is stable between processes.

    Returns:
        32 hexadecimal digits.
    """
    content = repr([str(part) for part in parts])
    return hashlib.blake2b(content.encode(), digest_size=_BYTES).hexdigest()


def hash_file(path: str | Path) -> str:
    """Hash the bytes of a file.

    Args:
        path: The file.

    Returns:
        32 hexadecimal digits.
    """
    digest = hashlib.blake2b(digest_size=_BYTES)
    with open(path, 'rb') as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
