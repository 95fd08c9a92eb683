"""Content hashes of arrays and settings, and seeds made of numbers."""

import hashlib
import random
from pathlib import Path

import numpy as np
import torch

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

    Returns:
        32 hexadecimal digits.
    """
    digest = hashlib.blake2b(digest_size=_BYTES)
    with open(path, 'rb') as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def mix_seed(*numbers: int) -> int:
    """Make one seed of several numbers, all of which matter.

    Args:
        *numbers: Not negative.

    Returns:
        In [0, 2**32).
    """
    # SeedSequence ignores trailing zeros: the length keeps (1,) from (1, 0).
    sequence = np.random.SeedSequence((len(numbers), *numbers))
    return int(sequence.generate_state(1)[0])


def seed_everything(seed: int) -> None:
    """Seed what transforms and models draw from, in this process.

    Args:
        seed: In [0, 2**32).
    """
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
