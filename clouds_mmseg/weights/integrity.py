"""Checksums of weight files."""

import hashlib
import io
import json
import os
import zipfile

import torch

# Where a file keeps the hash of its own content, in `meta`.
HASH_KEY = 'content_sha256'
# A second time in a pickle of arrays, beside `meta`.
HASH_BESIDE = '__content_sha256__'
# Under which key training scripts put the weights, tried in this order.
WRAPPERS = ('state_dict', 'model_state_dict', 'model')


class DamagedError(Exception):
    """The bytes of a file contradict the checksums in it."""


def content_sha256(weights, meta):
    """Hash what a file holds, whichever format it is written in.

    A file cannot contain the hash of its own bytes. This is the hash of what
    is read from it: names, dtypes, shapes and values of the tensors, sorted
    by name, and what is known about them.

    Args:
        weights (dict[str, Tensor]): Names -> values, on any device.
        meta (dict): Values that JSON holds; ``content_sha256`` itself is not
            counted.

    Returns:
        str: 64 hexadecimal digits.
    """
    digest = hashlib.sha256()
    for key in sorted(weights):
        value = weights[key].detach().cpu().contiguous()
        head = [key, str(value.dtype), list(value.shape)]
        digest.update(json.dumps(head).encode())
        if value.numel():
            digest.update(value.reshape(-1).view(torch.uint8).numpy().data)
    rest = {key: value for key, value in meta.items() if key != HASH_KEY}
    digest.update(json.dumps(rest, sort_keys=True).encode())
    return digest.hexdigest()


def check_content(content):
    """Compare what was read with the hash that was written with it.

    Args:
        content (dict): Weights under one of ``WRAPPERS``, and ``meta``.
            Without a hash nothing is compared; one beside ``meta`` is taken
            out.

    Raises:
        DamagedError: They differ.
    """
    stated = content.pop(HASH_BESIDE, None)
    meta = content.get('meta')
    wanted = meta.get(HASH_KEY, stated) if isinstance(meta, dict) else stated
    if wanted is None:
        return
    weights = next((content[key] for key in WRAPPERS if key in content), None)
    try:
        found = content_sha256(weights, meta or {})
    except (AttributeError, TypeError, ValueError) as error:
        raise DamagedError('its content cannot be hashed') from error
    if found != wanted:
        raise DamagedError(
            f'its content has the SHA-256 {found[:12]}..., it was written '
            f'with {str(wanted)[:12]}...'
        )


def check_archive(path):
    """Compare each member of a zip archive with its CRC-32.

    torch does not: a flipped bit in a weight would be read as a weight.

    Args:
        path (Path): What :func:`zipfile.is_zipfile` takes for a zip.

    Returns:
        list[str]: The names of the members.

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
        # Garbage in a header: BadZipFile, NotImplementedError (a way of
        # compression), UnicodeDecodeError (a name), EOFError, OSError, ...
        raise DamagedError(_first_line(error)) from error
    if wrong is not None:
        raise DamagedError(f'wrong CRC-32 of its member {wrong}')
    if len(set(names)) < len(names):
        raise DamagedError('two of its members have one name')
    return names


class BoundedReader(io.BufferedReader):
    """A file from which no more is asked for than it can have.

    A damaged length field of a pickle asks for terabytes, and Python
    reserves them before it reads.

    Args:
        path (Path): The file.
    """

    def __init__(self, path):
        super().__init__(io.FileIO(path))
        self._length = os.path.getsize(path)

    def read(self, size=-1, /):
        """Read at most as many bytes as the file has."""
        if size is not None:
            size = min(size, self._length)
        return super().read(size)


def _first_line(error):
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
