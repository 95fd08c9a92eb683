"""Files at addresses such as ``s3://bucket/folder``, read through fsspec.

Importing this module registers one file backend of mmengine for the schemes
of fsspec, so that datasets, images and lists of files are read from there,
like local ones. Where a store is and who may read it is told in the ways of
its own client: for S3 by ``AWS_ENDPOINT_URL``, ``AWS_PROFILE`` or
``AWS_ACCESS_KEY_ID`` and so on; for all of them by fsspec's configuration
(``FSSPEC_S3_ANON=true``).
"""

import errno
import hashlib
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import Any

import fsspec
from mmengine.fileio.backends import BaseStorageBackend, register_backend

from clouds_mmseg.utils.atomic import atomic_path
from clouds_mmseg.utils.errors import UserError

SCHEMES = (
    's3', 's3a', 'gs', 'gcs', 'az', 'abfs', 'abfss', 'oci', 'oss', 'hdfs',
    'webhdfs', 'sftp', 'smb', 'hf', 'memory',
)  # fmt: skip
# Clients of S3 try for minutes by themselves. Without concurrency a file is
# one request; with it, another one asks for its size before.
_S3 = dict(
    max_concurrency=1,
    config_kwargs=dict(
        connect_timeout=5, read_timeout=30, retries=dict(max_attempts=2)
    ),
)
_INSTALL = 'pip install "clouds_mmseg[remote]"'
# By which stores tell two contents of a file apart, the best first.
_VERSIONS = (
    'ETag', 'etag', 'md5Hash', 'generation', 'LastModified', 'last_modified',
    'mtime', 'updated', 'created',
)  # fmt: skip
# Where the exception says so, in whatever package it is defined.
_NO_CREDENTIALS = (
    'NoCredentialsError', 'PartialCredentialsError', 'ProfileNotFound',
    'TokenRetrievalError', 'DefaultCredentialsError',
)  # fmt: skip
_NO_SERVER = (
    'EndpointConnectionError', 'ConnectTimeoutError', 'ConnectionError',
    'ClientConnectorError', 'ConnectionClosedError', 'InvalidEndpoint',
    'ProxyConnectionError', 'gaierror',
)  # fmt: skip


class RemoteError(UserError):
    """A store cannot be read or written, whichever of its files is asked."""

    # As of an OSError, for those who catch both.
    filename = None

    @property
    def strerror(self) -> str:
        """What happened."""
        return str(self)


def is_address(name: str | Path) -> bool:
    """Tell whether a name is an address of one of :data:`SCHEMES`."""
    scheme, sign, _ = str(name).partition('://')
    return bool(sign) and scheme in SCHEMES


def refuse_address(name: str | Path, option: str, advice: str = '') -> None:
    """Refuse an address where only a folder will do.

    Args:
        name: What was given.
        option: Name of the option, for the message.
        advice: What to do instead.

    Raises:
        RemoteError: It is an address.
    """
    if is_address(name):
        raise RemoteError(
            f'{option} {name}: an address cannot be used here; give a folder'
            + (f'. {advice}' if advice else '')
        )


@contextmanager
def _store(address: str | Path) -> Iterator[tuple[Any, str]]:
    """Yield the file system of an address, and the path in it.

    Raises:
        RemoteError: The package of the scheme is missing, there are no
            credentials, the server does not answer, or access is denied.
        FileNotFoundError: There is no such object.
        OSError: Any other failure of the store.
    """
    address = str(address)
    scheme = address.partition('://')[0]
    options = {}
    if scheme in ('s3', 's3a') and not fsspec.config.conf.get('s3'):
        options = _S3
    try:
        # Not kept: after a fork a file system of the parent is no use, and
        # fsspec keeps its own for each process.
        store, path = fsspec.core.url_to_fs(address, **options)
        # Lists of folders that it has kept may be out of date.
        store.invalidate_cache()
        yield store, path
    except UserError:
        raise
    except ImportError as error:
        raise RemoteError(
            f'{address}: addresses that begin with {scheme}:// need another '
            f'package ({error}); for S3 it is installed by {_INSTALL}'
        ) from error
    except Exception as error:
        raise _explained(address, error) from error


def _explained(address, error):
    """Return the exception to raise for one of a client."""
    chain = [error]
    while chain[-1].__cause__ or chain[-1].__context__:
        chain.append(chain[-1].__cause__ or chain[-1].__context__)
        if len(chain) > 8:
            break
    names = {kind.__name__ for e in chain for kind in type(e).__mro__}
    said = str(error).strip().splitlines()[0] if str(error) else ''
    why = f'({type(error).__name__}: {said})'
    if names.intersection(_NO_CREDENTIALS):
        return RemoteError(
            f'{address}: there are no credentials for this store {why}. For '
            'S3 set AWS_PROFILE, or AWS_ACCESS_KEY_ID and '
            'AWS_SECRET_ACCESS_KEY; FSSPEC_S3_ANON=true reads public buckets'
        )
    if names.intersection(_NO_SERVER):
        return RemoteError(
            f'{address}: the store does not answer {why}. Is the network '
            'there, and the server of the store the one that is meant '
            '(AWS_ENDPOINT_URL for S3)?'
        )
    text = ' '.join(map(str, chain))
    if 'bucket does not exist' in text or 'NoSuchBucket' in text:
        return RemoteError(
            f'{address}: there is no such bucket {why}. Is its name right, '
            'and the server the one that is meant (AWS_ENDPOINT_URL for S3)?'
        )
    if 'PermissionError' in names or 'AccessDenied' in text:
        return RemoteError(
            f'{address}: access is denied {why}. Do the credentials belong '
            'to this store, and may they read (or write) there?'
        )
    if isinstance(error, FileNotFoundError):
        return FileNotFoundError(
            errno.ENOENT, 'there is no such file', address
        )
    if isinstance(error, OSError):
        return OSError(error.errno or errno.EIO, f'failed {why}', address)
    return RemoteError(f'{address}: the store failed {why}')


def exists(address: str | Path) -> bool:
    """Tell whether an address is a file or a folder."""
    with _store(address) as (store, path):
        return store.exists(path)


def require(address: str) -> None:
    """Refuse an address of which a store has no file.

    Raises:
        RemoteError: So, or the store cannot be read.
    """
    with _store(address) as (store, path):
        if not store.isfile(path):
            raise RemoteError(f'{address}: there is no such file')


def file_size(address: str) -> int | None:
    """Return the bytes of a remote file; None if there is none.

    Raises:
        RemoteError: See :func:`_store`.
    """
    try:
        with _store(address) as (store, path):
            return store.size(path)
    except FileNotFoundError:
        return None


def list_below(address: str | Path) -> dict[str, int]:
    """List the files of a remote folder and its sub-folders.

    Args:
        address: The folder; one that does not exist is empty.

    Returns:
        Path below the folder -> bytes, sorted; without hidden files.

    Raises:
        RemoteError: See :func:`_store`.
    """
    return {name: info['size'] for name, info in _find(address)}


def stamps_below(address: str | Path) -> dict[str, str]:
    """List the files of a folder with what changes when their content does.

    It is the same for a file that was written again as it was, where the
    store has hashes.

    Args:
        address: As of :func:`list_below`.

    Returns:
        Path below the folder -> bytes and version of the file.

    Raises:
        RemoteError: See :func:`_store`.
    """
    found = {}
    for name, info in _find(address):
        versions = [info[key] for key in _VERSIONS if info.get(key)]
        version = str(versions[0]).strip('"') if versions else ''
        found[name] = f'{info["size"]} {version}'
    return found


def _find(address):
    """Return (path below the folder, what the store says), sorted."""
    with _store(address) as (store, path):
        found = store.find(path, detail=True)
    start = path.rstrip('/') + '/'
    below = (
        (name.removeprefix(start), info)
        for name, info in sorted(found.items())
        if name.startswith(start)
    )
    return [
        (name, info)
        for name, info in below
        if not any(p.startswith('.') for p in PurePosixPath(name).parts)
    ]


def create(address: str, content: bytes) -> bool:
    """Write a file that is not there yet, in one request.

    Returns:
        False if it is there, or another process is just creating it.

    Raises:
        RemoteError: See :func:`_store`.
        OSError: The store failed.
    """
    with _store(address) as (store, path):
        try:
            store.pipe_file(path, content, mode='create')
        except FileExistsError:
            return False
        except OSError as error:
            # Of two at the same moment S3 may refuse both.
            if 'ConditionalRequestConflict' not in str(error):
                raise
            return False
        return True


def remove(folder: str, names: Iterable[str]) -> None:
    """Delete files of a folder; those that are not there are passed over.

    Raises:
        RemoteError: See :func:`_store`.
        OSError: The store failed.
    """
    with _store(folder) as (store, path), suppress(FileNotFoundError):
        files = [f'{path}/{name}' for name in names]
        if files:
            # In one request, where the store can.
            store.rm(files)


def read_range(address: str, start: int, length: int) -> bytes:
    """Read some bytes of a remote file, in one request.

    Args:
        address: The file.
        start: First byte.
        length: Number of bytes; fewer are returned at the end of the file.

    Raises:
        RemoteError: See :func:`_store`.
        OSError: There is no such file, or the store failed.
    """
    with _store(address) as (store, path):
        return store.cat_file(path, start=start, end=start + length)


def list_files(root: str | Path) -> dict[str, int]:
    """List the files of a folder or an address; see :func:`list_below`."""
    if is_address(root):
        return list_below(root)
    found = {
        path.relative_to(root): path
        for path in sorted(Path(root).rglob('*'))
        if path.is_file()
    }
    return {
        name.as_posix(): path.stat().st_size
        for name, path in found.items()
        if not any(part.startswith('.') for part in name.parts)
    }


def upload(source: Path, address: str) -> None:
    """Write a local file to an address; stores show it whole or not at all.

    Raises:
        RemoteError: See :func:`_store`.
        OSError: The store failed.
    """
    with _store(address) as (store, path):
        store.put_file(str(source), path)


def upload_folder(folder: Path, address: str, *, last: str) -> int:
    """Copy what a store lacks of a folder, or has in another size.

    Args:
        folder: The folder; hidden files and folders stay.
        address: Of the copy.
        last: File that is always copied, when all others are there: who
            finds it finds them.

    Returns:
        Number of files that were copied.

    Raises:
        RemoteError: See :func:`_store`.
    """
    there, copied = list_below(address), 0
    files = list_files(folder)
    for name in [n for n in files if n != last] + [last]:
        if there.get(name) == files[name] and name != last:
            continue
        upload(folder / name, f'{address.rstrip("/")}/{name}')
        copied += 1
    return copied


def fetch(address: str, folder: Path) -> Path:
    """Return a local copy of a remote file, kept for the next time.

    Args:
        address: The file.
        folder: Of the copies. A copy is used as long as the store says that
            the file is the same.

    Raises:
        RemoteError: See :func:`_store`; or there is no such file.
    """
    require(address)
    with _store(address) as (store, path):
        version = f'{address} {store.ukey(path)}'
        digest = hashlib.blake2b(version.encode(), digest_size=8).hexdigest()
        kept = folder.expanduser() / digest / PurePosixPath(address).name
        if not kept.is_file():
            with atomic_path(kept) as temporary:
                store.get_file(path, str(temporary))
        return kept


@contextmanager
def written_locally(target: str) -> Iterator[str]:
    """Yield a local path for what is written to an address at the end.

    Args:
        target: Of a file. A local path is yielded as it is.

    Raises:
        RemoteError: The store cannot be written.
    """
    if not is_address(target):
        yield target
        return
    with tempfile.TemporaryDirectory() as folder:
        local = Path(folder, PurePosixPath(target).name)
        yield str(local)
        upload(local, target)


def write_file(path: str, payload: bytes) -> None:
    """Write a file, local or remote, which appears whole or not at all.

    Args:
        path: The folder of a local file is created if needed.
        payload: Its content.

    Raises:
        RemoteError: See :func:`_store`.
        OSError: The disk or the store failed.
    """
    if is_address(path):
        with _store(path) as (store, name):
            store.pipe_file(name, payload)
        return
    with atomic_path(path) as temporary:
        temporary.write_bytes(payload)


@register_backend('fsspec', prefixes=list(SCHEMES), force=True)
class FsspecBackend(BaseStorageBackend):
    """File backend of mmengine for the addresses that fsspec knows.

    It takes the place of mmengine's backend for ``s3://``, which needs a
    client that is not published.
    """

    def get(self, filepath: str | Path) -> bytes:
        """Read a file."""
        with _store(filepath) as (store, path):
            return store.cat_file(path)

    def get_text(self, filepath: str | Path, encoding: str = 'utf-8') -> str:
        """Read a text file."""
        return self.get(filepath).decode(encoding)

    def put(self, obj: bytes, filepath: str | Path) -> None:
        """Write a file; it appears whole or not at all."""
        write_file(str(filepath), bytes(obj))

    def put_text(
        self, obj: str, filepath: str | Path, encoding: str = 'utf-8'
    ) -> None:
        """Write a text file."""
        self.put(obj.encode(encoding), filepath)

    def exists(self, filepath: str | Path) -> bool:
        """Tell whether there is a file or folder."""
        return exists(filepath)

    def isfile(self, filepath: str | Path) -> bool:
        """Tell whether there is a file."""
        with _store(filepath) as (store, path):
            return store.isfile(path)

    def isdir(self, filepath: str | Path) -> bool:
        """Tell whether there is a folder."""
        with _store(filepath) as (store, path):
            return store.isdir(path)

    def remove(self, filepath: str | Path) -> None:
        """Delete a file."""
        with _store(filepath) as (store, path):
            store.rm_file(path)

    def join_path(self, filepath: str, *filepaths: str) -> str:
        """Join parts of an address."""
        return '/'.join([filepath.rstrip('/'), *filepaths])

    @contextmanager
    def get_local_path(self, filepath: str | Path) -> Iterator[str]:
        """Yield a temporary local copy of a file."""
        with tempfile.TemporaryDirectory() as folder:
            local = Path(folder, PurePosixPath(str(filepath)).name)
            with _store(filepath) as (store, path):
                store.get_file(path, str(local))
            yield str(local)

    def list_dir_or_file(
        self,
        dir_path: str | Path,
        list_dir: bool = True,
        list_file: bool = True,
        suffix: str | tuple[str, ...] | None = None,
        recursive: bool = False,
    ) -> Iterator[str]:
        """Yield paths below a folder, without hidden ones.

        Args:
            dir_path: The folder.
            list_dir: Whether to list folders.
            list_file: Whether to list files.
            suffix: Of the files.
            recursive: Whether to list sub-folders too.
        """
        folders = set()
        for name in list_below(dir_path):
            parents = [str(p) for p in PurePosixPath(name).parents][:-1]
            for parent in reversed(parents):
                shown = list_dir and (recursive or '/' not in parent)
                if shown and parent not in folders:
                    yield parent
                folders.add(parent)
            if list_file and (recursive or not parents):
                if suffix is None or name.endswith(suffix):
                    yield name
