"""Checkpoints without their frozen backbone.

The weights of a frozen backbone are those of its pretrained file, which has a
licence of its own and is often most of a checkpoint. A published file can
leave them out; whoever reads it builds the backbone from the pretrained file.
The hash of the weights that were left out is stored, so that a missing or
another pretrained file is an error, and never a random or a wrong backbone.

An adapter is trained and stays in the file. SoMA takes a part out of the
pretrained weights; what it took is in the file, so that the rest can be
computed from the pretrained ones.
"""

import copy
import inspect
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from mmengine.registry import DefaultScope
from torch import nn

from clouds_mmseg.utils.data_root import PRETRAINED_VARIABLE
from clouds_mmseg.utils.errors import UserError
from clouds_mmseg.utils.image_set import sha256_of
from clouds_mmseg.weights.integrity import content_sha256
from clouds_mmseg.weights.io import MissingWeightsError
from clouds_mmseg.weights.locate import pretrained_dir, weights_only

# Whose registered classes the config in a checkpoint may build.
_SCOPES = ('mmengine', 'mmseg')

# Key in `meta` of a file without its frozen backbone.
META_KEY = 'frozen_backbone'
_PREFIX = 'backbone.'
# The step counters of batch norms change no output, and are missing in files
# from before torch 0.4.
_COUNTER = 'num_batches_tracked'
# Arguments of a backbone that may be the path of its pretrained weights.
_PATHS = ('pretrained', 'weights', 'model_name')
_FOLDER = 'local-dir:'


def split_backbone(
    weights: Mapping[str, torch.Tensor],
    model_cfg: Mapping | None,
    source: str,
) -> tuple[dict[str, torch.Tensor], dict]:
    """Remove the weights that the pretrained file of a backbone provides.

    The backbone is built from its pretrained file, and what is removed is
    compared with it. What is trained, and what an adapter adds, stays.

    Args:
        weights: Of a checkpoint.
        model_cfg: ``model`` of its config.
        source: The checkpoint, for messages.

    Returns:
        The weights that stay, and the description of the others for
        ``meta['frozen_backbone']``: ``config`` of the backbone, ``local``
        (arguments of it that are local paths -> name of the file), ``file``
        (``name`` and ``sha256`` of the pretrained file, None if not known),
        ``tensors`` and ``content_sha256`` of what was removed.

    Raises:
        UserError: The backbone is not frozen, has no pretrained file, or the
            checkpoint has other weights than that file.
        MissingWeightsError: The pretrained file is not here.
    """
    cfg, plain, backbone = _built_frozen(model_cfg, source)
    trained = {k for k, p in backbone.named_parameters() if p.requires_grad}
    frozen = {k for k, p in backbone.named_parameters() if not p.requires_grad}
    taken = dict(_taken_out(backbone, weights))
    removed, differing = {}, []
    for key, value in plain.state_dict().items():
        found = weights.get(_PREFIX + key)
        if key in trained or found is None:
            continue
        found = found.to(value.dtype)
        same = found.shape == value.shape and (
            torch.allclose(found + taken[key], value, rtol=1e-4, atol=1e-5)
            if key in taken
            else torch.equal(found, value)
        )
        if same:
            removed[key] = value
        elif key in frozen:
            differing.append(key)
    if differing or not removed:
        raise UserError(
            f'the backbone in {source} is not the one that its config names '
            f'({_source(cfg)}): {len(differing)} of {len(frozen)} frozen '
            f'weights differ ({", ".join(differing[:3])}, ...); publish it '
            'with its backbone'
        )
    kept = {
        k: v
        for k, v in weights.items()
        if k.removeprefix(_PREFIX) not in removed or not k.startswith(_PREFIX)
    }
    return kept, _describe(cfg, plain, removed)


def describe_left_out(model_cfg: Mapping | None, source: str) -> dict:
    """Describe the frozen backbone of a file that never had it.

    Args:
        model_cfg: ``model`` of its config.
        source: The file, for messages.

    Returns:
        As the second of :func:`split_backbone`.

    Raises:
        UserError: The backbone is not frozen or has no pretrained file.
        MissingWeightsError: The pretrained file is not here.
    """
    cfg, plain, backbone = _built_frozen(model_cfg, source)
    named = str(cfg.get('model_name'))
    if not (cfg.get('pretrained') or cfg.get('weights') or ':' in named):
        raise UserError(
            f'{source} has no backbone, and its config no weights of it: '
            'give model.backbone.pretrained=True or weights='
        )
    trained = {k for k, p in backbone.named_parameters() if p.requires_grad}
    left_out = {
        key: value.cpu()
        for key, value in plain.state_dict().items()
        if key not in trained
    }
    return _describe(cfg, plain, left_out)


def _built_frozen(model_cfg, source):
    """Build a config's frozen backbone, as it was before and is trained.

    Returns:
        Its config; the backbone without adapter, with its pretrained weights;
        and with the adapter.
    """
    cfg = (model_cfg or {}).get('backbone')
    if not isinstance(cfg, dict):
        raise UserError(
            f'{source} holds no config with a backbone, which says where its '
            'pretrained weights come from; give it with --config'
        )
    cfg = copy.deepcopy(cfg)
    plain = backbone = _build(_without_adapter(cfg), source)
    if cfg.get('adapter'):
        backbone = _build(cfg, source, load_pretrained=False)
    kind = type(backbone).__name__
    if not getattr(backbone, 'frozen', False):
        raise UserError(
            f'the backbone of {source} ({kind}) was trained, so no pretrained '
            'file has its weights; publish it with its backbone'
        )
    if not getattr(plain, 'weights_loaded', False):
        raise UserError(
            f'the config of {source} names no pretrained weights of its '
            f'backbone ({kind}): without them it cannot be built again; '
            'publish it with its backbone'
        )
    return cfg, plain, backbone


def _describe(cfg, backbone, left_out):
    """Describe a backbone whose weights are left out of a file."""
    file = _weights_file(backbone, cfg)
    return dict(
        config=cfg,
        local=dict(_local_paths(cfg)),
        file=file and dict(name=file.name, sha256=sha256_of(file)),
        tensors=len(left_out),
        content_sha256=_hash(left_out),
    )


def restore_backbone(
    weights: Mapping[str, torch.Tensor], meta: Mapping | None, source: str
) -> dict[str, torch.Tensor]:
    """Add the weights of a frozen backbone that a file was written without.

    Args:
        weights: Of the file.
        meta: Of the file; without ``frozen_backbone`` nothing is done.
        source: The file, for messages.

    Returns:
        All weights.

    Raises:
        MissingWeightsError: The pretrained file of the backbone is not here
            and cannot be fetched.
        UserError: It has other weights than those that were left out, or the
            description is damaged.
    """
    described = _description(meta, source)
    if described is None:
        return dict(weights)
    cfg = _here(described, source)
    # Training from this file draws the numbers that training from the whole
    # one does.
    with torch.random.fork_rng(devices=[]):
        try:
            plain = _build(_without_adapter(cfg), source)
        except MissingWeightsError as error:
            raise MissingWeightsError(
                f'{source} was written without its frozen backbone '
                f'({_source(cfg)}), whose weights are not here\n{error}'
            ) from error
    left_out = {
        key: value
        for key, value in plain.state_dict().items()
        if _PREFIX + key not in weights
    }
    if _hash(left_out) != described['content_sha256']:
        file = described.get('file') or {}
        raise UserError(
            f'{source} was written without its frozen backbone, and the '
            f'backbone built here ({_source(cfg)}) has other weights than '
            'the one it was trained with'
            + (
                f': that was the file {file["name"]} with the SHA-256 '
                f'{file["sha256"]}; fetch it'
                if file
                else ''
            )
        )
    if cfg.get('adapter'):
        with torch.random.fork_rng(devices=[]):
            backbone = _build(cfg, source, load_pretrained=False)
        for key, part in _taken_out(backbone, weights):
            left_out[key] = left_out[key] - part
    return {**weights, **{_PREFIX + k: v for k, v in left_out.items()}}


def find_left_out_backbone(meta: Mapping | None, source: str) -> dict | None:
    """Return the config of a backbone that a file was written without.

    Args:
        meta: Of the file.
        source: The file, for messages.

    Returns:
        The ``backbone`` of a model's config, with paths of this machine; None
        if the file is complete.

    Raises:
        UserError: See :func:`restore_backbone`.
    """
    described = _description(meta, source)
    return None if described is None else _here(described, source)


def require_registered(cfg: Any, named: str) -> None:
    """Refuse types that would import code: a checkpoint is not trusted.

    Args:
        cfg: A config or a part of one.
        named: Where it comes from, for the message.

    Raises:
        UserError: A type is a path to an object, not a registered name.
    """
    if isinstance(cfg, dict):
        kind, scope = cfg.get('type'), cfg.get('_scope_')
        if isinstance(kind, str) and ('.' in kind or ':' in kind):
            raise UserError(
                f'{named} names the type {kind!r}, which would import code; '
                'only names of registered classes are built'
            )
        if scope not in (None, *_SCOPES):
            # mmengine would import its module `registry`.
            raise UserError(
                f'{named} names the scope {scope!r}, which would import code; '
                f'known are {", ".join(_SCOPES)}'
            )
        cfg = list(cfg.values())
    if isinstance(cfg, (list, tuple)):
        for value in cfg:
            require_registered(value, named)


def _description(meta, source):
    described = meta.get(META_KEY) if isinstance(meta, Mapping) else None
    if described is None:
        return None
    if (
        not isinstance(described, dict)
        or not isinstance(described.get('config'), dict)
        or not isinstance(described.get('content_sha256'), str)
    ):
        raise UserError(
            f'{source} was written without its frozen backbone, and does not '
            'say which one that is; publish the checkpoint anew'
        )
    return described


def _without_adapter(cfg):
    """Return the config of a tower; adapters keep the names of its weights."""
    return {key: value for key, value in cfg.items() if key != 'adapter'}


def _taken_out(backbone, weights):
    """Yield key and value of what an adapter took out of the weights."""
    find = getattr(backbone, 'decomposed_weights', None)
    for key, name, low in find() if find else ():
        start = [weights.get(f'{_PREFIX}{name}.initial_{x}') for x in 'AB']
        # Without them it cannot be loaded, which is told there.
        if all(part is not None for part in start):
            yield key, low.product(*start)


def _build(cfg, source, **kwargs) -> nn.Module:
    """Build a backbone on the CPU, by default with its pretrained weights."""
    from mmseg.registry import MODELS

    require_registered(cfg, f'the config in {source}')
    kind = MODELS.get(str(cfg.get('type')))
    accepts = kind and 'load_pretrained' in inspect.signature(kind).parameters
    if not accepts:
        raise UserError(
            f'the backbone {cfg.get("type")} of {source} does not read '
            'pretrained weights by itself, so a file without them could not '
            'be loaded; publish it with its backbone'
        )
    left = ('compile', 'load_pretrained')
    kept = {k: v for k, v in cfg.items() if k not in left}
    with DefaultScope.overwrite_default_scope('mmseg'), weights_only():
        return MODELS.build(dict(kept, **kwargs))


def _hash(tensors):
    counted = {
        k: v for k, v in tensors.items() if k.rpartition('.')[2] != _COUNTER
    }
    return content_sha256(counted, {})


def _source(cfg):
    """Name a backbone and where its weights come from, in a few words."""
    words = [
        f'{key}={cfg[key]}' for key in _PATHS[::-1] if cfg.get(key) is not None
    ]
    return ', '.join([str(cfg.get('type')), *words])


def _weights_file(backbone, cfg):
    find = getattr(type(backbone), 'weights_file', None)
    return find(dict(cfg)) if find else None


def _local_paths(cfg) -> Iterator[tuple[str, str]]:
    """Yield the arguments that are paths here, and the name of the file."""
    for key in _PATHS:
        value = cfg.get(key)
        if isinstance(value, str) and value:
            path = Path(value.removeprefix(_FOLDER)).expanduser()
            # A tag may have the name of a folder that happens to be here.
            is_folder = path.is_dir() and ('/' in value or path != Path(value))
            if path.is_file() or is_folder:
                yield key, path.name


def _here(described, source):
    """Return the backbone's config with the paths of this machine."""
    cfg = dict(described['config'])
    for key, name in (described.get('local') or {}).items():
        value = str(cfg.get(key, ''))
        if Path(value.removeprefix(_FOLDER)).expanduser().exists():
            continue
        root = pretrained_dir()
        found = root and root / Path(name).name
        if not found or not found.exists():
            file = described.get('file') or {}
            raise MissingWeightsError(
                f'{source} was written without its frozen backbone '
                f'({cfg.get("type")}), whose weights were the local file or '
                f'folder {name}'
                + (f' (SHA-256 {file["sha256"]})' if file else '')
                + f': it is neither at {value} nor in the folder of '
                f'{PRETRAINED_VARIABLE} ({root or "not set"}). Put it there, '
                'or ask the author for the file with its backbone'
            )
        prefix = _FOLDER if value.startswith(_FOLDER) else ''
        cfg[key] = f'{prefix}{found}'
    return cfg
