"""Image banks that processes write to an object store."""

import hashlib
import tempfile
import time
from collections.abc import Container
from typing import Any

from mmengine import fileio

from clouds_mmseg.generate.image_bank import ImageBank
from clouds_mmseg.utils import remote
from clouds_mmseg.utils.image_set import (
    BANK_FILE,
    MANIFEST_FILE,
    SHARD_FOLDER,
)

# Seconds of work that may be lost with a process.
_PUBLISH_EVERY = 60.0


class BankInStore(ImageBank):
    """An image bank at an address, with the files of one in a folder.

    Images are written to the store one by one. The entries of this process
    are collected in a local file, which :meth:`publish` copies to the store.

    Args:
        address: Such as ``s3://bucket/bank``.
        recipe, info, num: See :class:`ImageBank`.

    Raises:
        GenerationError: See :class:`ImageBank`.
        UserError: The store cannot be read or written.
    """

    def __init__(self, address: str, recipe: dict, *, info: dict, num: int):
        self._local = tempfile.TemporaryDirectory()
        self._sizes: dict[str, int] | None = None
        self._published = time.monotonic()
        self._address = address.rstrip('/')
        super().__init__(
            self._local.name, recipe, info=info, num=num, writer=None
        )

    def _open(self):
        self.place = self._address
        super()._open()

    def _at(self, name):
        return f'{self._address}/{name}'

    def _holds_files(self):
        return bool(remote.list_below(self._address))

    def _create(self, content):
        remote.create(self._at(BANK_FILE), content)

    def _write_file(self, name, payload):
        fileio.put(payload, self._at(name))

    def done(self, *args: Any, **options: Any) -> set[int]:
        """Return the indices of the images whose entry and files exist.

        See :meth:`ImageBank.done`. The store is listed once, and not if no
        entry is asked for.
        """
        self._sizes = None
        return super().done(*args, **options)

    def _size(self, name):
        if self._sizes is None:
            self._sizes = remote.list_below(self._address)
        return self._sizes.get(name)

    def _hash(self, name):
        return hashlib.sha256(fileio.get(self._at(name))).hexdigest()

    def add(self, *args: Any, **options: Any) -> None:
        """Write an image and its entry; see :meth:`ImageBank.add`."""
        super().add(*args, **options)
        if time.monotonic() - self._published > _PUBLISH_EVERY:
            self.publish()

    def publish(self) -> None:
        """Copy the entries of this process to the store.

        Raises:
            GenerationError: The store failed.
        """
        self._published = time.monotonic()
        if self._shard is not None:
            with self._explained():
                remote.upload(self._shard.path, self._at(self._shard_name()))

    def _shard_name(self):
        return f'{SHARD_FOLDER}/{self.writer}.jsonl'

    def sweep(self, indices: Container[int]) -> None:
        """Do nothing: in a store there are no unfinished files."""

    def finish(self) -> bool:
        """Write the manifest if every image exists; see :class:`ImageBank`."""
        whole = super().finish()
        if whole:
            with self._explained():
                folder = self._at(SHARD_FOLDER)
                remote.remove(folder, remote.list_below(folder))
        return whole

    def discard(self) -> None:
        """Delete the entries of this process, which are in the manifest."""
        if self._shard is not None:
            self._shard.remove()
            self._shard = None
            with self._explained():
                remote.remove(self._address, [self._shard_name()])

    def close(self) -> None:
        """Copy the last entries of a run that is stopped to the store."""
        # After the end of the work, late entries would hide what a filter
        # has since found.
        if self._shard is not None and not self._is_complete():
            self.publish()
        super().close()
        self._local.cleanup()

    def _is_complete(self):
        return fileio.isfile(self._at(MANIFEST_FILE))
