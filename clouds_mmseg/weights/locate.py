"""Location of pretrained files: local folders, hubs and URLs."""

import difflib
import fcntl
import os
import pickle
import re
from contextlib import contextmanager
from pathlib import Path
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

from clouds_mmseg.utils.errors import UserError
from clouds_mmseg.utils.reachable import check_reachable
from clouds_mmseg.weights.io import read_content, training_names

PRETRAINED_VARIABLE = 'CLOUDS_PRETRAINED_DIR'
# The switch of Hugging Face's client, which holds here for every download.
OFFLINE_VARIABLE = 'HF_HUB_OFFLINE'
_HUB = 'https://huggingface.co/'
_NOT_ASKED = 'no server was asked for it'
# OpenMMLab and PyTorch end a name with the beginning of the file's SHA-256.
_HASH_IN_NAME = re.compile(r'-([0-9a-f]{8,64})\.\w+$')


class MissingWeightsError(UserError):
    """Pretrained weights are not here and cannot be fetched.

    The message names the files, the places where they were looked for, where
    they are published, and what to do.

    Attributes:
        fetchable (bool): Nobody was asked for them yet, and a run would be.
    """

    fetchable = False


def use_pretrained_dir(folder):
    """Make a folder the one in which pretrained files are looked up.

    Args:
        folder (str | Path | None): The folder; None leaves what the
            environment variable ``CLOUDS_PRETRAINED_DIR`` says.

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
    os.environ[PRETRAINED_VARIABLE] = str(path.absolute())


def pretrained_dir():
    """Return the folder of pretrained files.

    Returns:
        Path | None: None where neither option nor variable names one.

    Raises:
        UserError: The variable names no folder.
    """
    value = os.environ.get(PRETRAINED_VARIABLE)
    if not value:
        return None
    path = Path(value).expanduser()
    if not path.is_dir():
        raise UserError(
            f'{PRETRAINED_VARIABLE}={value}: there is no such folder; set it '
            'to the folder in which pretrained weights are kept, or unset it'
        )
    return path


def is_offline():
    """Tell whether ``HF_HUB_OFFLINE`` forbids downloads."""
    value = os.environ.get(OFFLINE_VARIABLE, '')
    return value.strip().upper() in {'1', 'ON', 'YES', 'TRUE'}


def in_repository(repository, names):
    """Name the places of a repository's files below the pretrained folder.

    Args:
        repository (str): ``owner/name`` on the Hugging Face hub.
        names (Sequence[str]): Files of it, the preferred one first.

    Returns:
        list[str]: Relative paths: ``owner/name/file``, ``name/file`` and the
        layout of the hub's own cache, in which ``*`` is a commit.
    """
    folders = [
        repository,
        repository.split('/')[-1],
        f'models--{repository.replace("/", "--")}/snapshots/*',
    ]
    return [f'{folder}/{name}' for folder in folders for name in names]


def find_pretrained(places):
    """Look files up in the pretrained folder.

    Args:
        places (Sequence[str]): Relative paths, the preferred one first; of
            several that match a ``*`` the newest is taken.

    Returns:
        Path | None: The first that exists.

    Raises:
        UserError: ``CLOUDS_PRETRAINED_DIR`` names no folder.
    """
    root = pretrained_dir()
    if root is None:
        return None
    for place in places:
        found = root.glob(place) if '*' in place else [root / place]
        found = [path for path in found if path.is_file()]
        if found:
            return max(found, key=lambda path: path.stat().st_mtime)
    return None


def missing_error(
    what,
    places,
    *,
    origin=None,
    repository=None,
    looked=(),
    error=None,
    reason=None,
    instead=None,
):
    """Make the error for weights that are not here.

    Args:
        what (str): Whose weights, as the user named them.
        places (Sequence[str]): Relative paths that were looked up in the
            pretrained folder.
        origin (str | None): Where they are published.
        repository (str | None): Or the repository on the Hugging Face hub.
        looked (Sequence[str | Path]): Other places that were looked at.
        error (Exception | None): What the download said; None where
            ``HF_HUB_OFFLINE`` forbade it.
        reason (str | None): Why nothing was fetched, where it is another.
        instead (str | None): Another way to name a local file.

    Returns:
        MissingWeightsError: To be raised.
    """
    root = pretrained_dir()
    if root is None:
        seen = [f'no --pretrained-dir and no {PRETRAINED_VARIABLE} is given']
    else:
        seen = [str(root / place) for place in places]
    put = f'put it at DIR/{places[0]}'
    if repository:
        origin = _HUB + repository
        looked = [*looked, f"{hub_cache()}, the hub's cache"]
        put = f'hf download {repository} --local-dir DIR/{repository}'
    if error is None:
        reason = reason or f'{OFFLINE_VARIABLE} is set: nothing is downloaded'
    else:
        first = (str(error).strip().splitlines() or [''])[0]
        reason = f'it could not be fetched ({type(error).__name__}: {first})'
    names = dict.fromkeys(Path(place).name for place in places)
    missing = MissingWeightsError(
        '\n'.join(
            [
                f'{what}: {" or ".join(names)} is not here',
                *(f'  looked for: {place}' for place in [*seen, *looked]),
                f'  {reason}',
                f'  published at: {origin}',
                f'  to have it: {put}',
                f'  and give --pretrained-dir DIR or {PRETRAINED_VARIABLE}=DIR'
                + (f', or {instead}' if instead else ''),
            ]
        )
    )
    missing.fetchable = reason == _NOT_ASKED
    return missing


def hub_cache():
    """Return the folder in which the Hugging Face client keeps files."""
    from huggingface_hub.constants import HF_HUB_CACHE

    return HF_HUB_CACHE


def find_or_fetch(address, what, *, folder=None, fetch=True):
    """Return the file that an address names, fetched if it must be.

    Looked up in the pretrained folder by its name, then where torch keeps
    what it has fetched; only then is it fetched, under a temporary name, by
    one process of a machine at a time. Where the name ends with the
    beginning of the file's SHA-256, a download is compared with it.

    Args:
        address (str): ``http://`` or ``https://``.
        what (str): Whose weights, for the messages.
        folder (str | Path | None): Where fetched files are kept; by default
            ``hub/checkpoints`` of torch's cache.
        fetch (bool): False only looks.

    Returns:
        Path: An existing file.

    Raises:
        MissingWeightsError: It is not here and cannot be fetched.
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
    repository, names, what, *, places=(), instead=None, fetch=True
):
    """Return a file of a repository on the Hugging Face hub.

    Looked up in the pretrained folder, then in the hub's own cache; only
    then is the hub asked.

    Args:
        repository (str): ``owner/name``, with ``@revision`` behind it if
            not the main one is meant.
        names (Sequence[str]): Files that would do, the preferred one first.
        what (str): Whose weights, for the messages.
        places (Sequence[str]): Further relative paths in the pretrained
            folder.
        instead (str | None): Another way to name a local file.
        fetch (bool): False only looks.

    Returns:
        Path: An existing file.

    Raises:
        MissingWeightsError: None of them is here, or can be fetched.
    """
    repository, _, revision = repository.partition('@')
    places = [*in_repository(repository, names), *places]
    found = find_pretrained(places)
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
        places,
        repository=repository,
        error=error,
        reason=None if fetch else _NOT_ASKED,
        instead=instead,
    ) from error


def check_hub_reachable():
    """Raise an OSError where the Hugging Face hub does not answer.

    Its client tries again for half a minute, and for each file.
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
    """Ask the hub for the first of some files that a repository has."""
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
    lock = path.with_name(f'.{path.name}.lock')
    try:
        with open(lock, 'w') as stream:
            fcntl.flock(stream, fcntl.LOCK_EX)
            # Another process may have fetched it meanwhile.
            if path.is_file():
                return
            check_reachable(address)
            print_log(f'Fetching {address} to {path}', 'current')
            digest = _HASH_IN_NAME.search(path.name)
            torch.hub.download_url_to_file(
                address,
                str(path),
                hash_prefix=digest and digest.group(1),
                progress=False,
            )
    finally:
        lock.unlink(missing_ok=True)


def missing_weights(cfg: dict, name: str = 'model') -> list[str]:
    """Say which pretrained weights of a config are not on this machine.

    Nothing is fetched and no network is touched; nothing is built and no
    weights are read. A class says what it needs by a static method
    ``find_weights(cfg)``, which raises an error for what is not here;
    weights that are named by ``init_cfg=dict(type='Pretrained', ...)`` or
    ``pretrained='torchvision://...'`` need none. The class must be in the
    registry of models (``import clouds_mmseg``).

    What a checkpoint (``load_from``, ``--resume``) will replace is told as
    well: whoever loads one need not ask.

    Args:
        cfg: The ``model`` of a config, or any other part of one that names
            weights somewhere inside: a refiner, a hook with a refiner, an
            entry of ``banks``.
        name: What it is called in the messages.

    Returns:
        A message for each file that is missing: where the config names it,
        where it was looked for, where it is published and how to have it.
        Empty if everything is here. Other mistakes about weights, such as
        an unknown tag, are among them.
    """
    return [f'{place}: {error}' for place, error in weight_problems(cfg, name)]


def weight_problems(
    cfg: dict, name: str = 'model'
) -> list[tuple[str, UserError]]:
    """:func:`missing_weights` as exceptions.

    Args:
        cfg: See :func:`missing_weights`.
        name: See :func:`missing_weights`.

    Returns:
        Place in the config and error, each error once. Weights that are
        published and could be fetched are a :class:`MissingWeightsError`.
    """
    from mmseg.registry import MODELS

    problems = {}
    for place, node in _nodes(cfg, name):
        kind = node.get('type')
        kind = MODELS.get(kind) if isinstance(kind, str) else kind
        try:
            _find_named(node)
            if hasattr(kind, 'find_weights'):
                kind.find_weights(dict(node))
        except UserError as error:
            problems.setdefault(str(error), (place, error))
    return list(problems.values())


def _nodes(value, name):
    """Dicts inside of a config, the outer ones first, and their names."""
    if isinstance(value, dict):
        yield name, value
        parts = [(f'{name}.{key}', part) for key, part in value.items()]
    elif isinstance(value, (list, tuple)):
        parts = [(f'{name}[{i}]', part) for i, part in enumerate(value)]
    else:
        return
    for place, part in parts:
        yield from _nodes(part, place)


def _find_named(node):
    """Look for weights that are named as mmengine names them."""

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
    """Addresses by name; an old name has that of its successor."""
    models = get_external_models()
    renamed = get_deprecated_model_names()
    return models | {
        old: models[new] for old, new in renamed.items() if new in models
    }


# As mmengine's CheckpointLoader knows them.
_ZOOS = {
    'torchvision': get_torchvision_models,
    'modelzoo': get_torchvision_models,
    'open-mmlab': _openmmlab_models,
    'openmmlab': _openmmlab_models,
    'mmcls': get_mmcls_models,
}


def resolve_address(name):
    """Turn the name of a model zoo into the address of its file.

    Args:
        name (str): Such as ``torchvision://resnet50``,
            ``open-mmlab://resnet50_v1c`` or ``https://...``.

    Returns:
        str | None: An address beginning with ``http``; None for a scheme of
        which there is no address, such as ``s3://``.

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
        near = difflib.get_close_matches(model, models, n=5, cutoff=0.4)
        raise UserError(
            f'{name}: {scheme} has no model {model!r}; near: '
            f'{", ".join(near) or "none"}'
        )
    return models[model]


def fetch_checkpoint(name, what, *, fetch=True):
    """Return the local file of a checkpoint that is named by an address.

    Args:
        name (str): See :func:`resolve_address`.
        what (str): What it is for, for the messages.
        fetch (bool): False only looks.

    Returns:
        Path | None: From the pretrained folder or torch's cache, or fetched;
        None where mmengine itself must be asked.

    Raises:
        MissingWeightsError: It is not here and cannot be fetched.
    """
    address = resolve_address(name)
    return address and find_or_fetch(address, f'{what}, {name}', fetch=fetch)


_FORCE = 'TORCH_FORCE_WEIGHTS_ONLY_LOAD'


def read_remote(address, map_location='cpu'):
    """Read a checkpoint from an address, without running code in it.

    Args:
        address (str): ``https://...``, ``torchvision://resnet50`` and the
            like: from the pretrained folder, torch's cache, or fetched; or
            another scheme of mmengine, such as ``s3://...``.
        map_location (str | torch.device): Where the tensors go.

    Returns:
        dict: As saved.

    Raises:
        UserError: It cannot be fetched, or is not a checkpoint.
    """
    path = fetch_checkpoint(address, 'the checkpoint')
    if path is not None:
        return read_content(path, map_location=map_location)
    try:
        # mmengine reads what it fetched without asking for weights only.
        with _weights_only():
            return CheckpointLoader.load_checkpoint(address, map_location)
    except (OSError, KeyError, pickle.UnpicklingError) as error:
        raise UserError(
            f'the checkpoint {address} could not be read '
            f'({type(error).__name__}: {error}); give the path of a file'
        ) from error


@contextmanager
def _weights_only():
    """Let torch.load read weights only, whatever its caller asks for."""
    before = os.environ.get(_FORCE)
    os.environ[_FORCE] = '1'
    try:
        with training_names():
            yield
    finally:
        if before is None:
            del os.environ[_FORCE]
        else:
            os.environ[_FORCE] = before
