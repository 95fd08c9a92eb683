"""Explanation of why a checkpoint does not match a model."""

from pathlib import Path

from mmseg.registry import DATASETS

from clouds_mmseg.conversion.layouts import TITLES, detect
from clouds_mmseg.utils.errors import UserError
from clouds_mmseg.weights.load import has_prefix
from clouds_mmseg.weights.partial import parts_that_differ

# A weight with one row a class -> how many rows more it has.
_CLASS_WEIGHTS = {
    'decode_head.cls_embed.bias': 1,
    'decode_head.conv_seg.bias': 0,
}


def classes_of(meta):
    """Class names that a checkpoint says it was trained for.

    Args:
        meta (dict | None): What is saved beside the weights, by this or by
            earlier versions of MMSegmentation.

    Returns:
        list[str] | None: The names; None if it says nothing.
    """
    meta = meta if isinstance(meta, dict) else {}
    for place in (meta.get('dataset_meta'), meta):
        if isinstance(place, dict):
            names = place.get('classes') or place.get('CLASSES')
            if names:
                return [str(name) for name in names]
    return None


def classes_of_config(config):
    """Find the class names of the first data set in a config.

    Args:
        config (Any): A config or a part of one.

    Returns:
        dict | None: ``classes`` and ``palette``.
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


def diagnose_mismatch(error, source, checkpoint, model, cfg, use='train'):
    """Find out why weights do not fit a model, and what can be done.

    Args:
        error (CheckpointMismatchError): What :func:`load_strictly` found.
        source (str): Where the weights come from.
        checkpoint (dict): ``state_dict`` and, if there is one, ``meta``.
        model (nn.Module): A segmentor; its head may have ``num_classes``.
        cfg (Config): Its test data may name its classes.
        use (str): ``'train'`` for ``load_from`` of a training, ``'test'``,
            or ``'resume'``.

    Returns:
        UserError: With the reason before the list, and an option that works
        behind it.
    """
    weights = checkpoint['state_dict']
    foreign = _foreign(weights)
    if foreign:
        return UserError(
            f'{source} has the names of {TITLES[foreign]}; convert it first: '
            f'python tools/convert_checkpoint.py {source} OUT.pth\n{error}'
        )
    ours = getattr(getattr(model, 'decode_head', None), 'num_classes', None)
    reason = other_classes(source, weights, checkpoint.get('meta'), ours, cfg)
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
    """Say which option makes a training or a test start nevertheless."""
    load_cfg = cfg.get('load_cfg') or {}
    optional = getattr(model, 'optional_in_checkpoint', ())
    names = parts_that_differ(error, [*weights, *model.state_dict()])
    strays = not error.missing and not error.shape_mismatches
    if use != 'resume' and strays:
        option = _option(load_cfg, 'allow_unexpected', names)
        return f'To pass over what is too much: --cfg-options {option}'
    lacking = not error.unexpected and not error.shape_mismatches
    if (
        use != 'resume'
        and lacking
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
    anew = (
        f'--cfg-options load_from={source} {option}'
        '\n(what is named begins anew, as the config initialises it)'
    )
    if use == 'resume':
        return (
            'To resume, the model must be the same. To begin a new training '
            f'with what fits, leave --resume out and give {anew}'
        )
    return f'To start with what fits: {anew}'


def _option(load_cfg, key, names):
    given = load_cfg.get(key) or []
    given = [given] if isinstance(given, str) else list(given)
    # Where one is named, what lies under it need not be.
    every = [n for n in dict.fromkeys([*given, *names])]
    return f'load_cfg.{key}="[{",".join(every)}]"'


def _config_beside(source):
    """Name the config that a run leaves beside its checkpoints."""
    configs = sorted(Path(source).expanduser().parent.glob('*.py'))
    if len(configs) != 1:
        return ''
    return f': python tools/test.py {configs[0]} {source}'


def other_classes(source, weights, meta, ours, cfg):
    """Say which classes a checkpoint has where a model has others.

    Args:
        source (str): Where the weights come from.
        weights (dict[str, Tensor]): Under our names.
        meta (dict | None): What is saved beside them.
        ours (int | None): How many the model has.
        cfg (Config): Its test data may name them.

    Returns:
        str | None: A sentence; None where the numbers agree or are unknown.
    """
    found = classes_of(meta)
    count = len(found) if found else count_classes(weights)
    if None in (ours, count) or count == ours:
        return None
    data = classes_of_config(cfg.get('test_dataloader')) or {}
    return (
        f'the checkpoint {source} was trained for {count} classes'
        f'{_listed(found)}, the model of this config has {ours}'
        f'{_difference(found, data.get("classes"))}'
    )


def count_classes(values):
    """Read the number of classes off a head.

    Args:
        values (dict[str, Tensor | tuple]): Weights or shapes by our names.

    Returns:
        int | None: None where they do not tell.
    """
    for key, more in _CLASS_WEIGHTS.items():
        if key in values:
            shape = getattr(values[key], 'shape', values[key])
            return shape[0] - more
    return None


def _foreign(weights):
    try:
        kind = detect(weights).kind
    except UserError:
        return None
    return None if kind == 'mmseg' else kind


def _listed(names):
    return f' ({", ".join(names)})' if names else ''


def _difference(found, names):
    """Name the classes that only one side has."""
    if not found or not names:
        return _listed(list(names) if names else None)
    only_there = [name for name in found if name not in names]
    only_here = [str(name) for name in names if name not in found]
    parts = []
    if only_there:
        parts.append(f'only the checkpoint has {", ".join(only_there)}')
    if only_here:
        parts.append(f'only the config has {", ".join(only_here)}')
    return f' ({"; ".join(parts)})' if parts else ''
