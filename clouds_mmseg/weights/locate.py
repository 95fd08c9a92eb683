"""Location of pretrained files: local folder, caches, hubs and URLs.

Every caller resolves weights here, in this order: the pretrained folder
(``--pretrained-dir`` or ``CLOUDS_PRETRAINED_DIR``), the cache of torch or of
the Hugging Face hub, and, unless ``HF_HUB_OFFLINE`` is set, a download.
"""

import os
import pickle
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import torch
from mmengine.logging import print_log
from mmengine.runner.checkpoint import (
    CheckpointLoader,
    get_deprecated_model_names,
    get_external_models,
    get_mmcls_models,
    get_torchvision_models,
)

from clouds_mmseg.utils import remote
from clouds_mmseg.utils.atomic import rename, work_folder
from clouds_mmseg.utils.data_root import (
    PRETRAINED_VARIABLE,
    chosen_folder,
    use_folder,
)
from clouds_mmseg.utils.errors import UserError
from clouds_mmseg.utils.locks import ProcessLock
from clouds_mmseg.utils.options import closest_names
from clouds_mmseg.utils.reachable import check_reachable
from clouds_mmseg.utils.remote import is_address
from clouds_mmseg.weights.io import (
    MissingWeightsError,
    read_content,
    safe_training_globals,
)

# The offline switch of Hugging Face's client; here for every download.
OFFLINE_VARIABLE = 'HF_HUB_OFFLINE'
_HUB = 'https://huggingface.co/'
_NOT_ASKED = 'no server was asked for it'
_FORCE_WEIGHTS_ONLY = 'TORCH_FORCE_WEIGHTS_ONLY_LOAD'
# OpenMMLab and PyTorch end a name with the first digits of the SHA-256.
_HASH_IN_NAME = re.compile(r'-([0-9a-f]{8,64})\.\w+$')


def use_pretrained_dir(folder: str | Path | None) -> None:
    """Set the folder in which pretrained files are looked up.

    Args:
        folder: None keeps the environment variable
            ``CLOUDS_PRETRAINED_DIR``.

    Raises:
        UserError: There is no such folder.
    """
    if folder is None:
        return
    path = Path(folder).expanduser()
    if not path.is_dir():
        raise UserError(
            f'--pretrained-dir {folder}: there is no such folder; give the '
            'folder in which pretrained weights are kept'
        )
    use_folder(PRETRAINED_VARIABLE, path)


def pretrained_dir() -> Path | None:
    """Return the folder of pretrained files; None if none is set.

    Raises:
        UserError: The variable names no folder.
    """
    value = chosen_folder(PRETRAINED_VARIABLE)
    if not value:
        return None
    path = Path(value).expanduser()
    if not path.is_dir():
        raise UserError(
            f'{PRETRAINED_VARIABLE}={value}: there is no such folder; set it '
            'to the folder in which pretrained weights are kept, or unset it'
        )
    return path


def is_offline() -> bool:
    """Tell whether ``HF_HUB_OFFLINE`` forbids downloads."""
    value = os.environ.get(OFFLINE_VARIABLE, '')
    return value.strip().upper() in {'1', 'ON', 'YES', 'TRUE'}


def in_repository(repository: str, names: Sequence[str]) -> list[str]:
    """List where a repository's files may be below the pretrained folder.

    Args:
        repository: ``owner/name`` on the Hugging Face hub.
        names: Files of it, the preferred one first.

    Returns:
        Relative paths: ``owner/name/file``, ``name/file`` and the layout of
        the hub's own cache, in which ``*`` is a commit.
    """
    folders = [
        repository,
        repository.split('/')[-1],
        f'models--{repository.replace("/", "--")}/snapshots/*',
    ]
    return [f'{folder}/{name}' for folder in folders for name in names]


def find_pretrained(paths: Sequence[str]) -> Path | None:
    """Look up the first existing file in the pretrained folder.

    Args:
        paths: Relative paths, the preferred one first; of several matches of
            a ``*`` the newest is taken.

    Raises:
        UserError: ``CLOUDS_PRETRAINED_DIR`` names no folder.
    """
    root = pretrained_dir()
    if root is None:
        return None
    for path in paths:
        found = root.glob(path) if '*' in path else [root / path]
        found = [file for file in found if file.is_file()]
        if found:
            return max(found, key=lambda file: file.stat().st_mtime)
    return None


def missing_error(
    what: str,
    paths: Sequence[str],
    *,
    origin: str | None = None,
    repository: str | None = None,
    looked: Sequence[str | Path] = (),
    error: Exception | None = None,
    reason: str | None = None,
    instead: str | None = None,
) -> MissingWeightsError:
    """Create the error for weights that are not on this machine.

    Args:
        what: Whose weights, as the user named them.
        paths: Relative paths that were looked up in the pretrained folder.
        origin: Where the weights are published.
        repository: Or the repository on the Hugging Face hub.
        looked: Other paths that were searched.
        error: Raised by the download; None where there was none.
        reason: Why there was no download, if not ``HF_HUB_OFFLINE``.
        instead: Another way to name a local file.
    """
    root = pretrained_dir()
    if root is None:
        searched = [
            f'no --pretrained-dir and no {PRETRAINED_VARIABLE} is given'
        ]
    else:
        searched = [str(root / path) for path in paths]
    remedy = f'put it at DIR/{paths[0]}'
    if repository:
        origin = _HUB + repository
        looked = [*looked, f"{hub_cache()}, the hub's cache"]
        remedy = f'hf download {repository} --local-dir DIR/{repository}'
    if error is None:
        reason = reason or f'{OFFLINE_VARIABLE} is set: nothing is downloaded'
    else:
        error, login = _hub_answer(error, origin)
        first = (str(error).strip().splitlines() or [''])[0]
        reason = f'it could not be fetched ({type(error).__name__}: {first})'
        if login:
            remedy = f'{login} and run this again; or {remedy}'
    names = dict.fromkeys(Path(path).name for path in paths)
    missing = MissingWeightsError(
        '\n'.join(
            [
                f'{what}: {" or ".join(names)} is not here',
                *(f'  looked for: {path}' for path in [*searched, *looked]),
                f'  {reason}',
                f'  published at: {origin}',
                f'  to have it: {remedy}',
                f'  and give --pretrained-dir DIR or {PRETRAINED_VARIABLE}=DIR'
                + (f', or {instead}' if instead else ''),
            ]
        )
    )
    missing.fetchable = reason == _NOT_ASKED
    return missing


def _hub_answer(error, page):
    """Return the hub's own error, and what it takes to be let in, if that.

    diffusers and transformers raise errors of their own, which do not say
    that access has to be asked for, but are chained to the client's.
    """
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        RepositoryNotFoundError,
    )

    found: BaseException | None = error
    while found is not None and not isinstance(found, HfHubHTTPError):
        found = found.__cause__ or found.__context__
    if found is None:
        return error, ''
    if isinstance(found, GatedRepoError):
        return found, f'ask for access at {page}, then `hf auth login`'
    status = getattr(found.response, 'status_code', None)
    if isinstance(found, RepositoryNotFoundError) or status in (401, 403):
        # The hub does not tell a private repository from none.
        return found, (
            f'compare the name with {page}, or if it is private, '
            '`hf auth login`'
        )
    return found, ''


def hub_cache() -> str:
    """Return the folder in which the Hugging Face client keeps files."""
    from huggingface_hub.constants import HF_HUB_CACHE

    return HF_HUB_CACHE


def find_or_fetch(
    address: str,
    what: str,
    *,
    folder: str | Path | None = None,
    fetch: bool = True,
) -> Path:
    """Return the local file of a URL, downloaded if necessary.

    The file name is looked up in the pretrained folder, then in torch's
    download cache. A download goes to a temporary name first, and processes
    of one machine take turns. Where the name ends with the first digits of a
    SHA-256, the download is verified.

    Args:
        address: ``http://`` or ``https://``.
        what: Whose weights, for the messages.
        folder: Download cache; by default ``hub/checkpoints`` of torch's
            cache.
        fetch: False never downloads.

    Raises:
        MissingWeightsError: The file is not here and cannot be fetched.
    """
    name = Path(urlparse(address).path).name
    found = find_pretrained([name])
    if found is not None:
        return found
    folder = Path(folder or Path(torch.hub.get_dir(), 'checkpoints'))
    kept = folder.expanduser() / name
    if kept.is_file():
        return kept
    error = None
    if fetch and not is_offline():
        try:
            _fetch(address, kept)
            return kept
        except (OSError, ValueError, RuntimeError) as problem:
            error = problem
    raise missing_error(
        what,
        [name],
        origin=address,
        looked=[kept],
        error=error,
        reason=None if fetch else _NOT_ASKED,
    ) from error


def find_or_fetch_from_hub(
    repository: str,
    names: Sequence[str],
    what: str,
    *,
    paths: Sequence[str] = (),
    instead: str | None = None,
    fetch: bool = True,
) -> Path:
    """Return the local file of a Hugging Face repository.

    Looked up in the pretrained folder, then in the hub's own cache;
    downloaded otherwise.

    Args:
        repository: ``owner/name``, or ``owner/name@revision``.
        names: Acceptable files, the preferred one first.
        what: Whose weights, for the messages.
        paths: Further relative paths in the pretrained folder.
        instead: Another way to name a local file, for the message.
        fetch: False never downloads.

    Raises:
        MissingWeightsError: None of them is here, or can be fetched.
    """
    repository, _, revision = repository.partition('@')
    paths = [*in_repository(repository, names), *paths]
    found = find_pretrained(paths)
    if found is None:
        found = _in_hub_cache(repository, names, revision or None)
    if found is not None:
        return found
    error = None
    if fetch and not is_offline():
        try:
            return _fetch_from_hub(repository, names, revision or None)
        except Exception as problem:
            error = problem
    raise missing_error(
        what,
        paths,
        repository=repository,
        error=error,
        reason=None if fetch else _NOT_ASKED,
        instead=instead,
    ) from error


def check_hub_reachable() -> None:
    """Raise an OSError at once if the Hugging Face hub does not respond.

    Its own client retries for half a minute, for each file.
    """
    from huggingface_hub.constants import ENDPOINT

    check_reachable(ENDPOINT)


def _in_hub_cache(repository, names, revision):
    from huggingface_hub import try_to_load_from_cache

    for name in names:
        found = try_to_load_from_cache(repository, name, revision=revision)
        if isinstance(found, str):
            return Path(found)
    return None


def _fetch_from_hub(repository, names, revision):
    """Download the first of some files that the repository has."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError

    check_hub_reachable()
    for name in names:
        try:
            return Path(hf_hub_download(repository, name, revision=revision))
        except EntryNotFoundError as error:
            absent = error
    raise absent


def _fetch(address, path):
    """Download a file; processes of a machine take turns."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = ProcessLock(path.with_name(f'.{path.name}.lock'))
    lock.acquire(wait=True)
    try:
        # Another process may have fetched it meanwhile.
        if path.is_file():
            return
        check_reachable(address)
        print_log(f'Fetching {address} to {path}', 'current')
        digest = _HASH_IN_NAME.search(path.name)
        # torch's own unfinished file stays if the process is killed.
        with work_folder(path) as folder:
            torch.hub.download_url_to_file(
                address,
                str(folder / path.name),
                hash_prefix=digest and digest.group(1),
                progress=False,
            )
            rename(folder / path.name, path)
    finally:
        lock.release(remove=True)


def missing_weights(cfg: dict, name: str = 'model') -> list[str]:
    """List the pretrained weights of a config that are not on this machine.

    Nothing is downloaded, built or read. A class declares what it needs by a
    static method ``find_weights(cfg)``, which raises an error for a missing
    file; weights named by ``init_cfg=dict(type='Pretrained', ...)`` or
    ``pretrained='torchvision://...'`` need none. The class must be in the
    registry of models (``import clouds_mmseg``).

    Weights that a checkpoint (``load_from``, ``--resume``) would replace are
    listed as well.

    Args:
        cfg: The ``model`` of a config, or any other part of one that names
            weights somewhere inside: a refiner, a hook with a refiner, an
            entry of ``banks``.
        name: What it is called in the messages.

    Returns:
        A message for each missing file: where the config names it, where it
        was looked for, where it is published and how to get it. Other
        mistakes about weights, such as an unknown tag, are included. Empty if
        everything is here.
    """
    return [f'{key}: {error}' for key, error in weight_problems(cfg, name)]


def weight_problems(
    cfg: dict, name: str = 'model'
) -> list[tuple[str, UserError]]:
    """:func:`missing_weights` as exceptions.

    Args:
        cfg: See :func:`missing_weights`.
        name: See :func:`missing_weights`.

    Returns:
        Dotted key in the config and error, each error once. Weights that are
        published and could be fetched are a :class:`MissingWeightsError`.
    """
    from mmseg.registry import MODELS

    problems = {}
    for key, node in _nodes(cfg, name):
        kind = node.get('type')
        kind = MODELS.get(kind) if isinstance(kind, str) else kind
        try:
            _find_named(node)
            if hasattr(kind, 'find_weights'):
                kind.find_weights(dict(node))
        except UserError as error:
            problems.setdefault(str(error), (key, error))
    return list(problems.values())


def _nodes(value, name):
    """Yield key and value of the dicts in a config, outer ones first."""
    if isinstance(value, dict):
        yield name, value
        parts = [(f'{name}.{key}', part) for key, part in value.items()]
    elif isinstance(value, (list, tuple)):
        parts = [(f'{name}[{i}]', part) for i, part in enumerate(value)]
    else:
        return
    for key, part in parts:
        yield from _nodes(part, key)


def _find_named(node):
    """Look for weights that are named in mmengine's ways."""
    named = node.get('pretrained')
    if node.get('type') == 'Pretrained':
        named = node.get('checkpoint')
    if isinstance(named, str) and '://' in named:
        fetch_checkpoint(named, 'pretrained weights', fetch=False)
    elif node.get('type') == 'Pretrained' and named:
        if not Path(named).expanduser().is_file():
            raise UserError(f'checkpoint={named}: there is no such file')
    model = node.get('model')
    if node.get('backend') == 'diffusers' and isinstance(model, str):
        if not Path(model).expanduser().exists():
            find_or_fetch_from_hub(
                model, ['model_index.json'], f'model={model}', fetch=False
            )


def _openmmlab_models():
    """Return name -> URL; a deprecated name has the URL of its successor."""
    models = get_external_models()
    renamed = get_deprecated_model_names()
    return models | {
        old: models[new] for old, new in renamed.items() if new in models
    }


# Schemes of mmengine's CheckpointLoader.
_ZOOS = {
    'torchvision': get_torchvision_models,
    'modelzoo': get_torchvision_models,
    'open-mmlab': _openmmlab_models,
    'openmmlab': _openmmlab_models,
    'mmcls': get_mmcls_models,
}


def resolve_address(name: str) -> str | None:
    """Return the URL of a model in a zoo.

    Args:
        name: Such as ``torchvision://resnet50``,
            ``open-mmlab://resnet50_v1c`` or ``https://...``.

    Returns:
        A URL beginning with ``http``; None for a scheme without one, such as
        ``s3://``.

    Raises:
        UserError: The zoo has no such model.
    """
    scheme, _, model = name.partition('://')
    if scheme in ('http', 'https'):
        return name
    if scheme not in _ZOOS:
        return None
    models = _ZOOS[scheme]()
    if model not in models:
        near = closest_names(model, models, most=5, cutoff=0.4)
        raise UserError(
            f'{name}: {scheme} has no model {model!r}; near: '
            f'{", ".join(near) or "none"}'
        )
    return models[model]


def fetch_checkpoint(
    name: str, what: str, *, fetch: bool = True
) -> Path | None:
    """Return the local file of a checkpoint that is named by a URL.

    Args:
        name: See :func:`resolve_address`.
        what: What it is for, for the messages.
        fetch: False never downloads.

    Returns:
        From the pretrained folder, torch's cache, or a download; None for a
        scheme that only mmengine reads, and for a file in a store that was
        not to be fetched.

    Raises:
        MissingWeightsError: The file is not here and cannot be fetched.
        RemoteError: It is in a store and cannot be read.
    """
    if is_address(name):
        if not fetch:
            remote.require(name)
            return None
        return remote.fetch(name, Path(torch.hub.get_dir(), 'checkpoints'))
    address = resolve_address(name)
    if not address:
        return None
    return find_or_fetch(address, f'{what}, {name}', fetch=fetch)


def read_remote(
    address: str, map_location: str | torch.device = 'cpu'
) -> dict[str, Any]:
    """Read a checkpoint from a URL, without running code in it.

    Args:
        address: ``https://...``, ``torchvision://resnet50`` and the like:
            from the pretrained folder, torch's cache, or a download; or
            another scheme of mmengine, such as ``s3://...``.
        map_location: Device of the tensors.

    Raises:
        UserError: The file cannot be fetched, or is not a checkpoint.
    """
    path = fetch_checkpoint(address, 'the checkpoint')
    if path is not None:
        return read_content(path, map_location=map_location)
    try:
        # mmengine loads downloads without weights_only.
        with weights_only():
            return CheckpointLoader.load_checkpoint(address, map_location)
    except (OSError, KeyError, pickle.UnpicklingError) as error:
        raise UserError(
            f'the checkpoint {address} could not be read '
            f'({type(error).__name__}: {error}); give the path of a file'
        ) from error


@contextmanager
def weights_only() -> Iterator[None]:
    """Let ``torch.load`` unpickle weights alone, whatever its caller passes.

    Other packages load files that a config names.
    """
    before = os.environ.get(_FORCE_WEIGHTS_ONLY)
    os.environ[_FORCE_WEIGHTS_ONLY] = '1'
    try:
        with safe_training_globals():
            yield
    finally:
        if before is None:
            del os.environ[_FORCE_WEIGHTS_ONLY]
        else:
            os.environ[_FORCE_WEIGHTS_ONLY] = before
