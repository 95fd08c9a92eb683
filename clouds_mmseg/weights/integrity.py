"""Checksums of weight files."""

import hashlib
import io
import json
import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

# Key of the content hash in `meta`.
HASH_KEY = 'content_sha256'
# Key of its copy beside `meta`, in a pickle of arrays.
HASH_BESIDE = '__content_sha256__'
# Keys under which training scripts store the weights, in order of trial.
WRAPPERS = ('state_dict', 'model_state_dict', 'model')


class DamagedError(Exception):
    """The bytes of a file contradict the checksums in it."""


def content_sha256(weights: Mapping[str, torch.Tensor], meta: Mapping) -> str:
    """Hash the content of a weight file, independently of its format.

    A file cannot contain the hash of its own bytes. This one covers what is
    read from it: names, dtypes, shapes and values of the tensors, sorted by
    name, and the metadata.

    Args:
        weights: Keys -> values, on any device.
        meta: JSON values; ``content_sha256`` itself is left out.

    Returns:
        64 hexadecimal digits.
    """
    sha256 = hashlib.sha256()
    for key in sorted(weights):
        value = weights[key].detach().cpu().contiguous()
        head = [key, str(value.dtype), list(value.shape)]
        sha256.update(json.dumps(head).encode())
        if value.numel():
            sha256.update(value.reshape(-1).view(torch.uint8).numpy().data)
    rest = {key: value for key, value in meta.items() if key != HASH_KEY}
    sha256.update(json.dumps(rest, sort_keys=True).encode())
    return sha256.hexdigest()


def check_content(content: dict) -> None:
    """Compare the content of a file with the hash stored in it.

    Args:
        content: Weights under one of ``WRAPPERS``, and ``meta``. Without a
            hash nothing is compared; the one beside ``meta`` is removed.

    Raises:
        DamagedError: They differ.
    """
    stated = content.pop(HASH_BESIDE, None)
    meta = content.get('meta')
    expected = meta.get(HASH_KEY, stated) if isinstance(meta, dict) else stated
    if expected is None:
        return
    weights: Any = next(
        (content[key] for key in WRAPPERS if key in content), None
    )
    try:
        found = content_sha256(weights, meta or {})
    except (AttributeError, TypeError, ValueError) as error:
        raise DamagedError('its content cannot be hashed') from error
    if found != expected:
        raise DamagedError(
            f'its content has the SHA-256 {found[:12]}..., it was written '
            f'with {str(expected)[:12]}...'
        )


def check_archive(path: Path) -> list[str]:
    """Compare each member of a zip archive with its CRC-32.

    torch does not: a flipped bit in a weight would go unnoticed.

    Args:
        path: A file for which :func:`zipfile.is_zipfile` holds.

    Returns:
        The names of the members.

    Raises:
        DamagedError: A checksum or the directory is wrong.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            # torch.serialization.set_crc32_options(False) leaves them out.
            unchecked = not any(info.CRC for info in archive.infolist())
            wrong = None if unchecked else archive.testzip()
    except Exception as error:
        # Garbage in a header: BadZipFile, NotImplementedError (the
        # compression method), UnicodeDecodeError (a name), EOFError, ...
        raise DamagedError(_first_line(error)) from error
    if wrong is not None:
        raise DamagedError(f'wrong CRC-32 of its member {wrong}')
    if len(set(names)) < len(names):
        raise DamagedError('two of its members have one name')
    return names


class BoundedReader(io.BufferedReader):
    """Reader that never requests more bytes than the file has.

    A damaged length field of a pickle requests terabytes, and Python
    allocates them before it reads.
    """

    def __init__(self, path: Path):
        super().__init__(io.FileIO(path))
        self._length = os.path.getsize(path)

    def read(self, size: int | None = -1, /) -> bytes:
        """Read at most as many bytes as the file has."""
        if size is not None:
            size = min(size, self._length)
        return super().read(size)


def _first_line(error):
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
