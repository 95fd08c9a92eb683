"""Explanation of why a checkpoint does not match a model."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmseg.registry import DATASETS
from torch import nn

from clouds_mmseg.conversion.layouts import TITLES, detect
from clouds_mmseg.utils.errors import UserError
from clouds_mmseg.weights.load import CheckpointMismatchError, has_prefix
from clouds_mmseg.weights.partial import parts_that_differ

# Weight with one row per class -> number of its further rows.
_CLASS_WEIGHTS = {
    'decode_head.cls_embed.bias': 1,
    'decode_head.conv_seg.bias': 0,
}


def classes_of(meta: dict | None) -> list[str] | None:
    """Return the class names that a checkpoint was trained for.

    Args:
        meta: Metadata beside the weights, as this or earlier versions of
            MMSegmentation save it.

    Returns:
        None if the metadata does not tell.
    """
    meta = meta if isinstance(meta, dict) else {}
    for entry in (meta.get('dataset_meta'), meta):
        if isinstance(entry, dict):
            names = entry.get('classes') or entry.get('CLASSES')
            if names:
                return [str(name) for name in names]
    return None


def classes_of_config(config: Any) -> dict | None:
    """Find the class names of the first dataset in a config.

    Args:
        config: A config or a part of one.

    Returns:
        ``classes`` and ``palette``; None if no dataset has classes.
    """
    if isinstance(config, dict):
        kind = str(config.get('type', '')).rpartition('.')[2]
        known = DATASETS.module_dict.get(kind)
        for meta in (config.get('metainfo'), getattr(known, 'METAINFO', None)):
            if isinstance(meta, dict) and meta.get('classes'):
                return dict(
                    classes=list(meta['classes']),
                    palette=[list(c) for c in meta.get('palette') or []],
                )
        config = list(config.values())
    if isinstance(config, (list, tuple)):
        for item in config:
            if found := classes_of_config(item):
                return found
    return None


def diagnose_mismatch(
    error: CheckpointMismatchError,
    source: str,
    checkpoint: dict,
    model: nn.Module,
    cfg: Config,
    use: str = 'train',
) -> UserError:
    """Explain why weights do not match a model, and what can be done.

    Args:
        error: Raised by :func:`~clouds_mmseg.weights.load.load_strictly`.
        source: Where the weights come from.
        checkpoint: ``state_dict`` and, if there is one, ``meta``.
        model: A segmentor; its head may have ``num_classes``.
        cfg: Its test dataset may name the classes.
        use: ``'train'`` for ``load_from`` of a training, ``'test'``, or
            ``'resume'``.

    Returns:
        The reason, the keys that differ, and an option that works.
    """
    weights = checkpoint['state_dict']
    foreign = _foreign(weights)
    if foreign:
        return UserError(
            f'{source} has the names of {TITLES[foreign]}; convert it first: '
            f'clouds convert {source} OUT.pth\n{error}'
        )
    num_classes = getattr(
        getattr(model, 'decode_head', None), 'num_classes', None
    )
    reason = other_classes(
        source, weights, checkpoint.get('meta'), num_classes, cfg
    )
    differing = {*error.missing, *error.unexpected, *error.shape_mismatches}
    if not reason and all(has_prefix(key, ['teacher']) for key in differing):
        holder = (
            f'the checkpoint {source} has'
            if error.unexpected
            else 'the model of this config has'
        )
        reason = f'{holder} the moving average of self-training (teacher.*)'
    reason = reason or f'{source} is a checkpoint for another architecture'
    advice = _advice(error, source, weights, model, cfg, use)
    return UserError(f'{reason}\n{error}\n{advice}')


def _advice(error, source, weights, model, cfg, use):
    """Return the option with which the run starts nevertheless."""
    load_cfg = cfg.get('load_cfg') or {}
    optional = getattr(model, 'optional_in_checkpoint', ())
    names = parts_that_differ(error, [*weights, *model.state_dict()])
    only_unexpected = not error.missing and not error.shape_mismatches
    if use != 'resume' and only_unexpected:
        option = _option(load_cfg, 'allow_unexpected', names)
        return f'To pass over what is too much: --cfg-options {option}'
    only_missing = not error.unexpected and not error.shape_mismatches
    if (
        use != 'resume'
        and only_missing
        and all(has_prefix(key, optional) for key in error.missing)
    ):
        option = _option(load_cfg, 'allow_missing', names)
        return (
            'To do without, which a test does not need and a training '
            f'begins anew: --cfg-options {option}'
        )
    if use == 'test':
        return (
            'A test takes every weight of the model from the checkpoint: use '
            f'the config that it was trained with{_config_beside(source)}'
        )
    option = _option(load_cfg, 'reinit', names)
    options = (
        f'--cfg-options load_from={source} {option}'
        '\n(what is named begins anew, as the config initialises it)'
    )
    if use == 'resume':
        return (
            'To resume, the model must be the same. To begin a new training '
            f'with what fits, leave --resume out and give {options}'
        )
    return f'To start with what fits: {options}'


def _option(load_cfg, key, names):
    """Write an option that adds names to those of the config."""
    given = load_cfg.get(key) or []
    given = [given] if isinstance(given, str) else list(given)
    every = list(dict.fromkeys([*given, *names]))
    return f'load_cfg.{key}="[{",".join(every)}]"'


def _config_beside(source):
    """Return the test command with the config beside the checkpoint."""
    configs = sorted(Path(source).expanduser().parent.glob('*.py'))
    if len(configs) != 1:
        return ''
    return f': clouds test {configs[0]} {source}'


def other_classes(
    source: str,
    weights: Mapping[str, torch.Tensor],
    meta: dict | None,
    num_classes: int | None,
    cfg: Config,
) -> str | None:
    """Describe how the classes of a checkpoint and of a model differ.

    Args:
        source: Where the weights come from.
        weights: Our keys -> values.
        meta: Metadata beside the weights.
        num_classes: Of the model.
        cfg: Its test dataset may name the classes.

    Returns:
        A sentence; None where the numbers agree or are unknown.
    """
    found = classes_of(meta)
    count = len(found) if found else count_classes(weights)
    if None in (num_classes, count) or count == num_classes:
        return None
    data = classes_of_config(cfg.get('test_dataloader')) or {}
    return (
        f'the checkpoint {source} was trained for {count} classes'
        f'{_listed(found)}, the model of this config has {num_classes}'
        f'{_difference(found, data.get("classes"))}'
    )


def count_classes(
    values: Mapping[str, torch.Tensor | tuple],
) -> int | None:
    """Return the number of classes of a linear classifier.

    Args:
        values: Our keys -> weights or their shapes.

    Returns:
        None where they do not tell.
    """
    for key, extra in _CLASS_WEIGHTS.items():
        if key in values:
            shape = getattr(values[key], 'shape', values[key])
            return shape[0] - extra
    return None


def _foreign(weights):
    """Return the kind of another project's weights; None for ours."""
    try:
        kind = detect(weights).kind
    except UserError:
        return None
    return None if kind == 'mmseg' else kind


def _listed(names):
    return f' ({", ".join(names)})' if names else ''


def _difference(found, names):
    """List the classes that only one side has."""
    if not found or not names:
        return _listed(list(names) if names else None)
    only_checkpoint = [name for name in found if name not in names]
    only_config = [str(name) for name in names if name not in found]
    parts = []
    if only_checkpoint:
        parts.append(f'only the checkpoint has {", ".join(only_checkpoint)}')
    if only_config:
        parts.append(f'only the config has {", ".join(only_config)}')
    return f' ({"; ".join(parts)})' if parts else ''
