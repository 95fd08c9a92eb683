"""Differences between the training plans of a checkpoint and of a config.

A resumed run equals an uninterrupted one only if its config would have
trained the same iterations up to the checkpoint. The two are compared:
config with config, and what a config does not show (images, processes,
parameters) with the facts that the checkpoint stores. Learning rates are
compared by value, in ``optim.py``.
"""

import hashlib
import os
from collections.abc import Sequence
from typing import NamedTuple

from mmengine.config import Config
from mmengine.runner import Runner

from clouds_mmseg.engine.data_check import leaf_datasets
from clouds_mmseg.utils.config_file import (
    ABSENT,
    config_differences,
    literal_config,
)
from clouds_mmseg.utils.errors import UserError
from clouds_mmseg.utils.packed_set import plain_path

# Sections of a config that determine what an iteration does.
_SECTIONS = (
    'model',
    'data_preprocessor',
    'train_dataloader',
    'train_cfg',
    'optim_wrapper',
    'total_batch_size',
)
# Settings in these sections that do not affect trained iterations.
_NEUTRAL = (
    # Compared by the resulting learning rates and batch sizes.
    'optim_wrapper.optimizer.lr',
    'total_batch_size',
    'train_dataloader.batch_size',
    'train_dataloader.num_workers',
    'train_dataloader.persistent_workers',
    'train_dataloader.prefetch_factor',
    'train_dataloader.pin_memory',
    'train_dataloader.timeout',
    'train_cfg.max_iters',
    'train_cfg.max_epochs',
    'train_cfg.val_begin',
    'train_cfg.val_interval',
    'train_cfg.dynamic_intervals',
    'train_cfg.fast_forward_on_resume',
    'model.test_cfg',
    # Weights that the checkpoint replaces.
    'model.pretrained',
    'model.backbone.pretrained',
    'model.backbone.checkpoint',
    'model.backbone.weights',
)
_NEUTRAL_NAMES = ('init_cfg', '_scope_', 'with_cp', 'lazy_init')
# Settings without effect during source-only training (SelfTrainingLoop).
_SELF_TRAINING = (
    'train_cfg.warmup_iters',
    'train_cfg.generated_share',
    'train_cfg.generated_beside',
    'train_dataloader.dataset.datasets.1',
    'model.teacher_decay',
    'model.teacher_ramp_up',
    'model.teacher_views',
    'model.label_method',
    'model.transport',
    'model.soft_labels',
    'model.label_threshold',
    'model.label_weight',
    'model.image_threshold',
    'model.confidence_weight',
    'model.label_dice',
    'model.mixing',
    'model.student_views',
    'custom_hooks.EMATeacherHook',
    'custom_hooks.SAMRefineHook',
)
# Hooks that only log or save.
PASSIVE_HOOKS = frozenset(
    (
        'IterTimerHook',
        'LoggerHook',
        'ParamSchedulerHook',
        'CheckpointHook',
        'SafeCheckpointHook',
        'DistSamplerSeedHook',
        'RuntimeInfoHook',
        'SegVisualizationHook',
        'ProgressHook',
        'PredictionPicturesHook',
        'ResultsHook',
        'PseudoLabelReportHook',
        'PseudoLabelAccuracyHook',
        'CheckpointClassesHook',
        'EarlyStoppingHook',
    )
)
_HOOK_NEUTRAL = ('cache_dir', 'checkpoint', 'picture_interval', 'width')
# Settings of a parameter group that a scheduler sets.
SCHEDULED = ('lr', 'momentum', 'betas')
# Characters of a value in messages.
_MAX_VALUE_LENGTH = 60


class PlanChange(NamedTuple):
    """Setting whose change affects iterations that are already trained.

    Attributes:
        key: Dotted key of the config.
        was: Its value in the checkpoint.
        now: Its value in the config that resumes.
        refused: Reason why it cannot be accepted; empty if it can.
    """

    key: str
    was: object
    now: object
    refused: str = ''

    def __str__(self) -> str:
        text = f'{self.key}: {_short(self.was)} -> {_short(self.now)}'
        return text + (f' ({self.refused})' if self.refused else '')


def _short(value):
    text = value if isinstance(value, str) else repr(value)
    return (
        text
        if len(text) <= _MAX_VALUE_LENGTH
        else text[: _MAX_VALUE_LENGTH - 3] + '...'
    )


def _below(key, prefixes):
    return any(key == p or key.startswith(f'{p}.') for p in prefixes)


def config_changes(
    was: dict | None, now: dict, iteration: int, *, files_known: bool = False
) -> list[PlanChange]:
    """Find the settings that would have changed the trained iterations.

    Args:
        was: Plain config of the checkpoint; None if it has none.
        now: Plain config that resumes.
        iteration: Iterations that are trained.
        files_known: The image names are compared separately, so data folders
            may differ.

    Returns:
        In the order of the sections; learning rates and batch sizes are not
        among them.
    """
    if not was or not now:
        return []
    found = [
        PlanChange(*difference)
        for section in _SECTIONS
        for difference in config_differences(
            was.get(section, ABSENT), now.get(section, ABSENT), section
        )
    ]
    found += _hook_changes(was, now)
    neutral = _NEUTRAL
    if _in_source_only_stage(was, iteration) and _in_source_only_stage(
        now, iteration
    ):
        neutral += _SELF_TRAINING
    return [
        change._replace(
            refused='the state of one cannot be used by another'
            if change.key == 'optim_wrapper.optimizer.type'
            else ''
        )
        for change in found
        if not _below(change.key, neutral)
        and not any(n in change.key.split('.') for n in _NEUTRAL_NAMES)
        and not (files_known and _is_data_folder(change.key))
        and not _is_relocated(change.was, change.now)
    ]


def _in_source_only_stage(cfg, iteration):
    return iteration <= (cfg.get('train_cfg') or {}).get('warmup_iters', -1)


def _is_data_folder(key):
    parts = key.split('.')
    return parts[-1] in ('data_root', 'bank') and 'pipeline' not in parts


def _is_relocated(was, now):
    """Return whether both are paths with the same base name."""
    if not (isinstance(was, str) and isinstance(now, str)):
        return False
    paths = '/' in was or '/' in now
    return paths and (
        was.rstrip('/').rsplit('/', 1)[-1]
        == now.rstrip('/').rsplit('/', 1)[-1]
    )


def _hook_changes(was, now):
    hooks = [_active_hooks(was), _active_hooks(now)]
    for name in sorted(hooks[0].keys() | hooks[1].keys()):
        a, b = (h.get(name, ABSENT) for h in hooks)
        if a != b:
            for key, old, new in config_differences(a, b):
                key = f'custom_hooks.{name}' + (f'.{key}' if key else '')
                yield PlanChange(key, old, new)


def _active_hooks(cfg):
    """Return the hooks that may affect training: type -> settings."""
    given = list(cfg.get('custom_hooks') or [])
    given += list((cfg.get('default_hooks') or {}).values())
    hooks = {}
    for hook in given:
        name = str((hook or {}).get('type', '')).rsplit('.', 1)[-1]
        # Without type: options of one of mmengine's default hooks.
        if name and name not in PASSIVE_HOOKS:
            settings = {
                k: v for k, v in hook.items() if k not in _HOOK_NEUTRAL
            }
            if name == 'MaskAnnealingHook' and not hook.get('end'):
                # Its schedule is a share of the training.
                loop = cfg.get('train_cfg') or {}
                settings['max_iters'] = loop.get('max_iters')
            hooks[name] = (
                settings if name not in hooks else [hooks[name], settings]
            )
    return hooks


def training_facts(runner: Runner) -> dict:
    """Collect facts about a training that its config does not show.

    Args:
        runner: With its optimiser and training data.

    Returns:
        ``processes``; ``batch_size`` of one process; ``images``, pairs of
        domain and number, and ``files``, a hash of the images' names in their
        order; ``parameters``, names of each parameter group; and ``trained``,
        those with a gradient.
    """
    images, names = [], hashlib.sha256()
    for leaf in leaf_datasets(runner.train_dataloader.dataset):
        domain = getattr(leaf, 'domain', None) or type(leaf).__name__
        images.append([str(domain), len(leaf)])
        for name in _file_names(leaf):
            names.update(name.encode(errors='surrogateescape') + b'\0')
    model = runner.model
    known = {
        id(p): name.removeprefix('module.')
        for name, p in model.named_parameters()
    }
    groups = getattr(runner.optim_wrapper, 'param_groups', None) or []
    return dict(
        processes=runner.world_size,
        batch_size=runner.train_dataloader.batch_size,
        images=images,
        files=names.hexdigest(),
        parameters=[
            [known.get(id(p), '') for p in group['params']]
            for group in groups
            if isinstance(group['params'], (list, tuple))
        ],
        trained=[
            name.removeprefix('module.')
            for name, p in model.named_parameters()
            if p.requires_grad
        ],
    )


def _file_names(leaf):
    """Return image paths relative to their common folder, in order."""
    if not hasattr(leaf, 'get_data_info'):
        return []
    paths = [
        plain_path(str(leaf.get_data_info(index).get('img_path', '')))
        for index in range(len(leaf))
    ]
    # Common prefix of characters cut at a folder: faster than commonpath.
    folder = os.path.commonprefix(paths).rpartition('/')[0]
    return [path[len(folder) :].lstrip('/') for path in paths]


def fact_changes(was: dict | None, now: dict) -> list[PlanChange]:
    """Compare the facts of a checkpoint with those of the run.

    Args:
        was: ``training_facts`` of the checkpoint; None if it is older.
        now: Those of the run that resumes.

    Returns:
        Other images, batches or parameters.
    """
    if not was:
        return []
    changes = []
    if was['images'] != now['images']:
        changes.append(
            PlanChange(
                'train_dataloader.dataset',
                _counts(was['images']),
                _counts(now['images']),
            )
        )
    elif was['files'] != now['files']:
        changes.append(
            PlanChange(
                'train_dataloader.dataset',
                _counts(was['images']),
                'as many images of other names, or in another order',
            )
        )
    totals = [
        (facts['batch_size'] or 0) * facts['processes'] for facts in (was, now)
    ]
    if totals[0] != totals[1]:
        changes.append(
            PlanChange('total_batch_size', *map(_batch, (was, now)))
        )
    if was['parameters'] != now['parameters']:
        changes.append(
            PlanChange(
                'optim_wrapper',
                _groups(was['parameters']),
                _groups(now['parameters']),
                'the optimiser would take the state of one parameter for '
                'that of another',
            )
        )
    for text, a, b in (
        ('frozen', 'was trained', set(was['trained']) - set(now['trained'])),
        ('trained', 'was frozen', set(now['trained']) - set(was['trained'])),
    ):
        if b:
            changes.append(PlanChange('model', f'{_some(b)} {a}', text))
    return changes


def _counts(images):
    return ', '.join(f'{domain} {number}' for domain, number in images)


def _batch(facts):
    size, processes = facts['batch_size'], facts['processes']
    return f'{(size or 0) * processes} ({size} x {processes})'


def _groups(groups):
    return f'{sum(map(len, groups))} parameters in {len(groups)} groups'


def _some(names):
    first = min(names)
    return first if len(names) == 1 else f'{first} and {len(names) - 1} more'


def group_changes(
    saved: Sequence[dict],
    state: dict,
    groups: Sequence[dict],
    *,
    settings: bool,
) -> list[PlanChange]:
    """Compare the parameter groups of a checkpoint with the optimiser's.

    Args:
        saved: ``param_groups`` of the checkpoint.
        state: ``state`` of the checkpoint: index of a parameter -> tensors.
        groups: Those of the optimiser that is to take them.
        settings: Also compare settings such as weight decay; for checkpoints
            without a config.

    Returns:
        Mismatches of groups, parameter shapes and settings.
    """
    sizes = [[len(g['params']) for g in each] for each in (saved, groups)]
    if sizes[0] != sizes[1]:
        was, now = (f'{sum(s)} parameters in {len(s)} groups' for s in sizes)
        return [
            PlanChange(
                'optim_wrapper',
                was,
                now,
                'the checkpoint has no state for these groups',
            )
        ]
    for old, new in zip(saved, groups, strict=False):
        for index, parameter in zip(
            old['params'], new['params'], strict=False
        ):
            for name, value in state.get(index, {}).items():
                shape = tuple(getattr(value, 'shape', ()))
                if shape and shape != tuple(parameter.shape):
                    return [
                        PlanChange(
                            'optim_wrapper',
                            f'{name} of shape {shape}',
                            f'a parameter of shape {tuple(parameter.shape)}',
                            'the groups hold other parameters',
                        )
                    ]
    if not settings:
        return []
    found = {}
    for old, new in zip(saved, groups, strict=False):
        for key in sorted(old.keys() & new.keys()):
            scheduled = key in SCHEDULED or key.startswith('initial_')
            # Any setting can have a scheduler: weight decay by a cosine.
            scheduled = scheduled or f'initial_{key}' in old
            values = literal_config(old[key]), literal_config(new[key])
            if key not in ('params', 'param_names') and not scheduled:
                if values[0] != values[1]:
                    found.setdefault(f'optim_wrapper.optimizer.{key}', values)
    return [PlanChange(key, *values) for key, values in found.items()]


def accepted_keys(cfg: Config) -> list[str]:
    """Return the keys that the config accepts as changed on resume.

    Args:
        cfg: With ``resume_cfg=dict(accept=[...])``, or without.

    Returns:
        Dotted keys.

    Raises:
        UserError: ``resume_cfg`` has another form.
    """
    given = cfg.get('resume_cfg') or {}
    keys = given.get('accept', []) if hasattr(given, 'get') else None
    if isinstance(keys, str):
        keys = [keys]
    if not isinstance(keys, (list, tuple)) or set(given) - {'accept'}:
        raise UserError(
            f'resume_cfg is {given!r}, but must be a dict with the list of '
            'keys that may change: --cfg-options '
            'resume_cfg.accept="[optim_wrapper.clip_grad]"'
        )
    return [str(key) for key in keys]


def require_same_plan(
    changes: Sequence[PlanChange],
    accepted: Sequence[str],
    path: str,
    iteration: int,
) -> list[str]:
    """Refuse to resume with another plan unless its changes are accepted.

    Args:
        changes: All differences.
        accepted: Result of :func:`accepted_keys`.
        path: Path of the checkpoint.
        iteration: Trained iterations of the checkpoint.

    Returns:
        A sentence for each accepted change.

    Raises:
        UserError: One error with all changes that are not accepted.
    """
    rejected = [c for c in changes if c.refused or not _below(c.key, accepted)]
    if not rejected:
        return [
            f'the first {iteration} iterations were trained with {c.key} '
            f'{_short(c.was)}, the later ones with {_short(c.now)}'
            for c in changes
        ]
    lines = '\n'.join(f'  {change}' for change in rejected)
    keys = ','.join(
        dict.fromkeys([*accepted, *(c.key for c in rejected if not c.refused)])
    )
    advice = (
        'restore these settings (was -> is), or start a new training from '
        f'its weights: --cfg-options load_from={path} without --resume'
    )
    if not any(c.refused for c in rejected):
        advice += (
            f'; to have the new settings from iteration {iteration + 1} on, '
            f'knowingly: --cfg-options resume_cfg.accept="[{keys}]"'
        )
    raise UserError(
        f'{path} was trained for {iteration} iterations with other settings '
        'than this config has, so the run would be that of neither:\n'
        f'{lines}\n{advice}'
    )
