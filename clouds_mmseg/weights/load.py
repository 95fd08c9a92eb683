"""Loading of checkpoints and pretrained weights, all or nothing."""

import copy
import inspect
import os.path as osp
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import torch
from mmengine.logging import print_log
from torch import nn

from clouds_mmseg.utils.errors import UserError
from clouds_mmseg.weights.frozen_backbone import restore_backbone
from clouds_mmseg.weights.io import (
    MissingWeightsError,
    read_content,
    read_state_dict,
    split_content,
)
from clouds_mmseg.weights.locate import (
    fetch_checkpoint,
    find_or_fetch_from_hub,
    read_remote,
)

# The weights in a published folder, and in a repository of the hub.
PUBLISHED_FILE = 'model.safetensors'
_HUB = 'hf-hub:'
# Of the hub's rules: letters, digits and, inside, single - _ and dots.
_NAME = r'(?!\S*(?:--|\.\.))\w(?:[\w.-]*\w)?'
_REPOSITORY = re.compile(rf'{_NAME}/{_NAME}(?:@[\w./-]+)?')
_WEIGHTS = ('.pth', '.pt', '.bin', '.pkl', '.safetensors')

# Entries of a list in an error message; a longer one hides the point.
_SHOWN = 20
# The step counter of a batch norm. It changes no output, and torch itself
# tolerates its absence, because files from before torch 0.4 do not have it.
_COUNTER = 'num_batches_tracked'
# Names of weights listed in a message.
_MAX_LISTED = 5


class CheckpointMismatchError(UserError, RuntimeError):
    """Keys or shapes of a state dict differ from those of the module.

    Attributes:
        missing: Key that only the module has -> shape.
        unexpected: Key that only the weights have -> shape.
        shape_mismatches: Key -> shape in the weights, and in the module.
    """

    def __init__(
        self,
        message: str,
        *,
        missing: Mapping[str, tuple] | None = None,
        unexpected: Mapping[str, tuple] | None = None,
        shape_mismatches: Mapping[str, tuple] | None = None,
    ):
        super().__init__(message)
        self.missing = dict(missing or {})
        self.unexpected = dict(unexpected or {})
        self.shape_mismatches = dict(shape_mismatches or {})

    @classmethod
    def listing(
        cls,
        source: str,
        target: str,
        *,
        missing: Mapping[str, tuple],
        unexpected: Mapping[str, tuple],
        shape_mismatches: Mapping[str, tuple],
    ) -> 'CheckpointMismatchError':
        """Create the error for weights of ``source`` that ``target`` rejects.

        The message lists at most 20 keys of each kind, the attributes have
        all of them.
        """
        lines = [
            f'{source} does not fit {target}: {len(missing)} keys missing, '
            f'{len(unexpected)} unexpected, {len(shape_mismatches)} of '
            'another shape. Nothing was loaded.'
        ]
        lines += _listing('missing in the weights', missing)
        lines += _listing('unexpected in the weights', unexpected)
        both = {
            key: f'{found} in the weights, {expected} expected'
            for key, (found, expected) in shape_mismatches.items()
        }
        lines += _listing('of another shape', both)
        return cls(
            '\n'.join(lines),
            missing=missing,
            unexpected=unexpected,
            shape_mismatches=shape_mismatches,
        )


def _listing(title, entries):
    """Format at most ``_SHOWN`` entries under a title."""
    if not entries:
        return []
    items = list(entries.items())
    lines = [f'  {title}:']
    lines += [f'    {key} {detail}' for key, detail in items[:_SHOWN]]
    if len(items) > _SHOWN:
        lines.append(f'    ... and {len(items) - _SHOWN} more')
    return lines


def has_prefix(key: str, prefixes: Iterable[str]) -> bool:
    """Tell whether a key starts with one of some dotted prefixes.

    Whole segments count: ``head`` covers ``head`` and ``head.weight`` but
    not ``header.weight``. The empty prefix covers everything.
    """
    return any(
        not p or key == p or key.startswith(p.rstrip('.') + '.')
        for p in prefixes
    )


def load_strictly(
    module: nn.Module,
    state_dict: Mapping[str, torch.Tensor],
    *,
    source: str,
    allow_missing: Iterable[str] = (),
    allow_unexpected: Iterable[str] = (),
) -> None:
    """Load weights into a module, or raise and leave it as it was.

    Values are converted to the dtype and the device of the module. A missing
    ``num_batches_tracked`` is no error: it changes no output.

    Args:
        module: Receives the weights. Keys are compared with those of its
            ``state_dict()``.
        state_dict: The weights.
        source: Where they come from (a path), for the message.
        allow_missing: Dotted prefixes of keys of the module that may be
            absent; they keep their values.
        allow_unexpected: Dotted prefixes of keys that the module does not
            have; these are skipped.

    Raises:
        CheckpointMismatchError: If any other key is missing or unexpected,
            or a shape differs. A shape that differs is never allowed.
        UserError: If a value that would be loaded is not a tensor.
        TypeError: If a prefix argument is one string.
    """
    allow_missing = _prefixes('allow_missing', allow_missing)
    allow_unexpected = _prefixes('allow_unexpected', allow_unexpected)
    own = module.state_dict()
    shared = {k: v for k, v in state_dict.items() if k in own}
    for key, value in shared.items():
        if isinstance(own[key], torch.Tensor) and not isinstance(
            value, torch.Tensor
        ):
            raise UserError(
                f'{source}: the value of {key} must be a tensor, got '
                f'{type(value).__name__}; give a file of weights'
            )
    missing = {
        k: _shape(v)
        for k, v in own.items()
        if k not in shared
        and k.rpartition('.')[2] != _COUNTER
        and not has_prefix(k, allow_missing)
    }
    unexpected = {
        k: _shape(v)
        for k, v in state_dict.items()
        if k not in own and not has_prefix(k, allow_unexpected)
    }
    shape_mismatches = {
        k: (_shape(v), _shape(own[k]))
        for k, v in shared.items()
        if _shape(v) != _shape(own[k])
    }
    if missing or unexpected or shape_mismatches:
        raise CheckpointMismatchError.listing(
            source,
            type(module).__name__,
            missing=missing,
            unexpected=unexpected,
            shape_mismatches=shape_mismatches,
        )
    module.load_state_dict(shared, strict=False)


def _prefixes(name, value):
    """Return the prefixes as a tuple; refuse a string, a list of letters."""
    if isinstance(value, str):
        raise TypeError(
            f'{name} must be a list of prefixes, got the string {value!r}; '
            f'write [{value!r}].'
        )
    return tuple(value)


def _shape(value):
    """Return the shape of a tensor, () of anything else."""
    return tuple(getattr(value, 'shape', ()))


def without_pretrained_init(cfg: dict) -> dict:
    """Return a model's config whose constructors read no pretrained files.

    A checkpoint contains the frozen backbone too, so whoever loads one
    should not need the files that its training started from. Files that are
    read after construction (``init_cfg=dict(type='Pretrained', ...)``) are
    left in: :meth:`init_weights` reads them, and a test does not call it.

    Args:
        cfg: ``model`` of a config. It is not changed. A class that reads
            files in its constructor takes ``load_pretrained``, or a bool
            ``pretrained`` as timm's models do.

    Returns:
        A copy with ``load_pretrained=False`` for the first kind, and
        ``pretrained=False`` for the other.
    """
    from mmseg.registry import MODELS

    cfg = copy.copy(cfg)
    for key, value in list(cfg.items()):
        if isinstance(value, dict):
            cfg[key] = without_pretrained_init(value)
        elif isinstance(value, (list, tuple)):
            # Constructors may tell tuples from lists.
            cfg[key] = type(value)(
                without_pretrained_init(v) if isinstance(v, dict) else v
                for v in value
            )
    kind = cfg.get('type')
    kind = MODELS.get(kind) if isinstance(kind, str) else kind
    if kind is None:
        return cfg
    if 'load_pretrained' in inspect.signature(kind).parameters:
        cfg['load_pretrained'] = False
    elif cfg.get('pretrained') is True:
        cfg['pretrained'] = False
    return cfg


def is_remote(path: str) -> bool:
    """Return whether a checkpoint path is a URL that mmengine downloads.

    Args:
        path: For example ``https://...`` or ``torchvision://...``.

    Returns:
        True for a URL, False for a local path.
    """
    return '://' in path


def require_checkpoint(path: str, argument: str) -> str:
    """Refuse a local checkpoint that does not exist.

    Args:
        path: Path or URL.
        argument: Argument or config key that names it, for the message.

    Returns:
        The path, with ``~`` expanded.

    Raises:
        UserError: There is no such file.
    """
    if is_remote(path):
        return path
    path = osp.expanduser(path)
    if not osp.isfile(path):
        raise UserError(
            f'{argument} names the checkpoint {path}, and there is no such '
            'file; give the path of an existing checkpoint'
        )
    return path


def find_checkpoint(name: str | Path) -> Path:
    """Return the local file of a checkpoint that a user names.

    Args:
        name: A file; a published folder, whose weights are
            ``model.safetensors``; the work dir of a training, whose last
            checkpoint is taken; a URL; or a repository of the Hugging Face
            hub, ``owner/name`` or ``owner/name@revision``, also with
            ``hf-hub:`` before it. What is here comes before the hub.

    Raises:
        MissingWeightsError: Nothing has this name, or it cannot be fetched.
        UserError: The folder holds no checkpoint, or two that could be meant.
    """
    text = str(name)
    if is_remote(text):
        found = fetch_checkpoint(text, 'the checkpoint')
        if found is None:
            raise UserError(
                f'{text}: a checkpoint is a file, a folder, a repository of '
                'the Hugging Face hub, or an address that begins with https://'
            )
        return found
    path = Path(text.removeprefix(_HUB)).expanduser()
    if text.startswith(_HUB):
        repository = text.removeprefix(_HUB)
    elif path.is_file():
        return path
    elif path.is_dir():
        return _checkpoint_in(path)
    else:
        repository = text
    if not _REPOSITORY.fullmatch(repository) or path.suffix in _WEIGHTS:
        raise MissingWeightsError(
            f'{text}: no such file or folder, and no name of a repository of '
            'the Hugging Face hub (owner/name)'
        )
    return find_or_fetch_from_hub(
        repository,
        [PUBLISHED_FILE],
        f'{text}, no file or folder here, as a repository of the hub',
        instead='the path of a checkpoint',
    )


def _checkpoint_in(folder):
    """Return the checkpoint of a published folder or a work dir."""
    published = folder / PUBLISHED_FILE
    last = find_last_checkpoint(str(folder))
    if published.is_file() and last:
        raise UserError(
            f'{folder} holds {PUBLISHED_FILE} and the checkpoints of a '
            f'training: give {published} or {last}'
        )
    if published.is_file():
        return published
    if last:
        return Path(last)
    others = sorted(p.name for p in folder.iterdir() if p.suffix in _WEIGHTS)
    raise UserError(
        f'the folder {folder} holds no checkpoint: neither {PUBLISHED_FILE}, '
        'as a published folder, nor last_checkpoint, as the work dir of a '
        'training'
        + (f'; name one of its files: {", ".join(others[:5])}' * bool(others))
    )


def find_last_checkpoint(work_dir: str) -> str | None:
    """Return the newest checkpoint of a work dir, per ``last_checkpoint``.

    Args:
        work_dir: Folder of an earlier run. It may have been moved since: the
            checkpoint is also searched beside ``last_checkpoint``.

    Returns:
        Path of the checkpoint, None if no run has saved one.

    Raises:
        UserError: ``last_checkpoint`` names a file that is gone.
    """
    pointer = osp.join(work_dir, 'last_checkpoint')
    if not osp.isfile(pointer):
        return None
    with open(pointer) as stream:
        path = stream.read().strip()
    for candidate in (path, osp.join(work_dir, osp.basename(path))):
        if osp.isfile(candidate):
            return candidate
    raise UserError(
        f'{pointer} names {path!r}, and there is no such file; write the '
        'path of an existing checkpoint into it, or remove it to start anew'
    )


def read_checkpoint(
    path: str,
    map_location: str | torch.device = 'cpu',
    *,
    resume: bool = False,
) -> dict:
    """Read a checkpoint without executing pickled code.

    Args:
        path: Local path of any of the formats of
            :func:`~clouds_mmseg.weights.io.read_content`, or a URL.
        map_location: Device of the tensors.
        resume: Whether a training is resumed from it.

    Returns:
        The checkpoint as saved, its weights under ``state_dict`` without the
        prefixes of wrappers; a frozen backbone that it was written without is
        added (:func:`~clouds_mmseg.weights.frozen_backbone.restore_backbone`).

    Raises:
        UserError: The file is missing, truncated or no checkpoint, holds
            objects other than tensors and plain values, or has weights only
            and is to be resumed.
    """
    if is_remote(path):
        content = read_remote(path, map_location)
    else:
        path = require_checkpoint(path, 'load_from')
        content = read_content(path, map_location=map_location)
    weights, rest = split_content(content, path)
    weights = restore_backbone(weights, rest.get('meta'), path)
    if resume and 'optimizer' not in rest:
        raise UserError(
            f'resume names {path}, which has weights and no state of an '
            'optimiser: give a checkpoint that a training saved, or begin a '
            f'new training with --cfg-options load_from={path}'
        )
    return dict(rest, state_dict=weights)


def fetch_initial_weights(
    model: nn.Module,
    *,
    overwritten: Callable[[str], bool] = lambda part: False,
) -> None:
    """Download the pretrained weights that a config names by URL.

    The configs of MMSegmentation's zoo contain URLs
    (``init_cfg=dict(type='Pretrained', checkpoint='https://...')``,
    ``pretrained='torchvision://resnet50'``). mmengine would download them
    after opening all datasets, execute pickled code, and load the matching
    part silently.

    Args:
        model: The ``init_cfg`` of its modules are changed in place.
        overwritten: Takes a module's name; returns whether a checkpoint
            overwrites the module, which then needs no pretrained weights.

    Raises:
        MissingWeightsError: A file is missing and cannot be downloaded.
        WeightFileError: A file is unreadable.
        UserError: A file has no weight of its module.
    """
    for name, module in model.named_modules():
        init_cfg = getattr(module, 'init_cfg', None)
        if isinstance(init_cfg, (list, tuple)):
            given = list(init_cfg)
        else:
            given = [init_cfg] if init_cfg else []
        pretrained = [c for c in given if c.get('type') == 'Pretrained']
        if pretrained and overwritten(name):
            module.init_cfg = [c for c in given if c not in pretrained]
            continue
        for cfg in pretrained:
            cfg['checkpoint'] = _local_path(cfg['checkpoint'], name)
            _report_coverage(module, name, cfg)


def _local_path(checkpoint, name):
    """Return the local path of a checkpoint, downloaded if needed."""
    if not is_remote(checkpoint):
        return checkpoint
    return str(fetch_checkpoint(checkpoint, f'model.{name}') or checkpoint)


def _report_coverage(module, name, cfg):
    """Log how many weights of a module a file has; none is an error."""
    path = cfg['checkpoint']
    if is_remote(path):
        return
    prefix = cfg.get('prefix') or 'backbone.'
    stored = {key.removeprefix(prefix) for key in read_state_dict(path)}
    # BatchNorm counters affect no output and are missing in old files.
    own = [k for k in module.state_dict() if not k.endswith('_tracked')]
    absent = [key for key in own if key not in stored]
    if len(absent) == len(own):
        raise UserError(
            f'{path} holds no weight of model.{name} '
            f'({type(module).__name__}): it has {_some(sorted(stored))}, '
            f'expected are {_some(own)}; give the weights of this architecture'
        )
    print_log(
        f'model.{name} starts from {path}: {len(own) - len(absent)} of '
        f'{len(own)} tensors'
        + (f'; random are {_some(absent)}' if absent else ''),
        logger='current',
    )


def _some(keys):
    """Join the first keys for a message."""
    more = (
        f' and {len(keys) - _MAX_LISTED} more'
        if len(keys) > _MAX_LISTED
        else ''
    )
    return ', '.join(keys[:_MAX_LISTED]) + more
