"""Differences between runs, with the spread over seeds.

Runs are grouped by what their configs say about the training. Only what was
measured alike is compared: the same protocol, classes and images.
"""

import copy
import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from clouds_mmseg.engine.resume_plan import PASSIVE_HOOKS
from clouds_mmseg.report.read_run import Run, number
from clouds_mmseg.utils.config_file import config_differences
from clouds_mmseg.utils.statistics import (
    Difference,
    paired_difference,
    spread,
)

GROUPING = (
    'Runs belong to one group if they were trained alike: model, data, '
    'schedule, optimiser, image sets and hooks of their configs are equal. '
    'Left out are the seed, folders, the checkpoint to resume from (of one to '
    'load, the file name is compared), and what only evaluates, logs or saves.'
)
# Sections of a config that determine what is trained.
_SECTIONS = (
    'model',
    'data_preprocessor',
    'train_dataloader',
    'train_cfg',
    'optim_wrapper',
    'param_scheduler',
    'auto_scale_lr',
    'total_batch_size',
    'custom_hooks',
    'load_cfg',
    'load_from',
    'runner_type',
    'randomness',
    'banks',
)
_NEUTRAL = ('val_interval', 'val_begin', 'dynamic_intervals')
# Differences of configs that are listed, and characters of a value.
_MOST, _LONGEST = 40, 90
MEAN = 'mean of targets'


@dataclass
class Group:
    """Runs of one config.

    Attributes:
        name: What the names of its runs have in common.
        runs: Its runs.
        config: What they were trained with.
    """

    name: str
    runs: list[Run]
    config: dict


@dataclass
class Comparison:
    """Groups side by side; the first is what the others are compared with.

    Attributes:
        groups: Groups whose results are comparable.
        columns: Domains that all groups have, and the mean where it is over
            the same domains.
        values: Column -> group's name -> values, one for each seed.
        differences: Column -> group's name -> difference to the first group;
            None without a common seed.
        classes: Class -> group's name -> mean over seeds and targets.
        configs: Group's name -> key, value of the first group, its own value.
        notes: What is not compared, and why.
    """

    groups: list[Group] = field(default_factory=list)
    columns: list[str] = field(default_factory=list)
    values: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    differences: dict[str, dict[str, Difference | None]] = field(
        default_factory=dict
    )
    classes: dict[str, dict[str, float | None]] = field(default_factory=dict)
    configs: dict[str, list[tuple[str, str, str]]] = field(
        default_factory=dict
    )
    notes: list[str] = field(default_factory=list)


def training_config(config: dict) -> dict:
    """Return the part of a config that runs of a group have in common.

    Args:
        config: As data.

    Returns:
        A new config, see :data:`GROUPING`.
    """
    kept = copy.deepcopy({k: config[k] for k in _SECTIONS if k in config})
    if isinstance(kept.get('randomness'), dict):
        kept['randomness'].pop('seed', None)
    if isinstance(kept.get('load_from'), str):
        kept['load_from'] = os.path.basename(kept['load_from'])
    if isinstance(kept.get('train_cfg'), dict):
        for key in _NEUTRAL:
            kept['train_cfg'].pop(key, None)
    if isinstance(kept.get('custom_hooks'), list):
        kept['custom_hooks'] = [
            hook
            for hook in kept['custom_hooks']
            if not isinstance(hook, dict)
            or hook.get('type') not in PASSIVE_HOOKS
        ]
    banks = kept.pop('banks', None)
    if isinstance(banks, list):
        # Those that are only evaluated on are named nowhere else in it.
        text = json.dumps(kept)
        kept['banks'] = [
            bank
            for bank in banks
            if not isinstance(bank, dict)
            or json.dumps(bank.get('out')) in text
        ]
    return kept


def group_runs(runs: Sequence[Run]) -> list[Group]:
    """Group runs by their config.

    Args:
        runs: In any order.

    Returns:
        In the order of the first run of each; a run whose config is unknown
        is a group of its own.
    """
    groups: dict[str, list[Run]] = {}
    for run in runs:
        key = f'unknown config of {run.name}'
        if run.config:
            key = json.dumps(training_config(run.config), sort_keys=True)
        groups.setdefault(key, []).append(run)
    names = [_group_name(members) for members in groups.values()]
    return [
        Group(
            f'{name} ({names[:i].count(name) + 1})'
            if names.count(name) > 1
            else name,
            members,
            training_config(members[0].config),
        )
        for i, (name, members) in enumerate(
            zip(names, groups.values(), strict=True)
        )
    ]


def _group_name(runs):
    """Return the parts of the paths that all runs of a group have."""
    paths = [run.name.split('/') for run in runs]
    shared = [p for p in paths[0] if all(p in path for path in paths)]
    shared = [p for p in shared if not re.fullmatch(r'seed[-_]?\d+', p)]
    return '/'.join(shared) or runs[0].name


def compare(runs: Sequence[Run]) -> Comparison:
    """Compare the groups of runs.

    Args:
        runs: All runs of a report.

    Returns:
        With no columns where nothing can be compared.
    """
    found = Comparison()
    usable = []
    for run in runs:
        if run.results is None or not run.results.get('domains'):
            why = 'it has no results by domain'
        elif run.is_unfinished:
            why = f'it is unfinished ({run.trained} of {run.planned})'
        else:
            usable.append(run)
            continue
        found.notes.append(f'{run.name} is not compared: {why}.')
    usable = _measured_alike(usable, found.notes)
    found.groups = group_runs(usable)
    if not usable:
        return found
    for group in found.groups:
        seeds = [run.seed for run in group.runs]
        if len(set(seeds)) < len(seeds):
            found.notes.append(
                f'Group {group.name} has a seed more than once (seeds '
                f'{", ".join(map(str, seeds))}): its deviation is not only '
                'that of seeds, and its differences are not paired.'
            )
    found.columns = _common_domains(usable, found.notes)
    _compare_values(found)
    _compare_classes(found)
    if len(found.groups) > 1:
        first = found.groups[0]
        for group in found.groups[1:]:
            found.configs[group.name] = [
                (key, _shorten(was), _shorten(now))
                for key, was, now in config_differences(
                    first.config, group.config
                )
            ][:_MOST]
    return found


def _measured_alike(runs, notes):
    """Keep the runs that were measured like the first one."""
    kept = []
    for run in runs:
        first = kept[0] if kept else run
        for key, what in (
            ('protocol', 'its protocol is not that'),
            ('classes', 'its classes are not those'),
        ):
            ours, theirs = run.results.get(key), first.results.get(key)
            if ours != theirs:
                shown = f' ({ours}, not {theirs})' if key == 'protocol' else ''
                notes.append(
                    f'{run.name} is not compared: {what} of '
                    f'{first.name}{shown}.'
                )
                break
        else:
            kept.append(run)
            if run.results.get('phase') != first.results.get('phase'):
                notes.append(
                    f'The results of {run.name} are of a '
                    f'{run.results.get("phase")}, those of {first.name} of a '
                    f'{first.results.get("phase")}.'
                )
    return kept


def _common_domains(runs, notes):
    """Return the domains that all runs have with the same images."""
    tables = [run.results['domains'] for run in runs]
    common = []
    for domain in tables[0]:
        if not all(domain in table for table in tables):
            continue
        counts = {table[domain].get('images') for table in tables}
        if len(counts) > 1:
            notes.append(
                f'{domain} is not compared: the runs have different numbers '
                f'of images ({", ".join(map(str, sorted(counts, key=str)))}).'
            )
            continue
        if all(_miou(table[domain]) is not None for table in tables):
            common.append(domain)
    if not common:
        notes.append('The runs have no domain in common.')
    targets = [set(run.results['domains']) - {*run.sources} for run in runs]
    if any(names != targets[0] for names in targets) or not targets[0] <= {
        *common
    }:
        notes.append(
            'The target domains of the runs are not the same: their means are '
            'not compared.'
        )
    elif all(_run_mean(run) is not None for run in runs):
        common.insert(0, MEAN)
    return common


def _miou(report):
    return number(report['metrics'].get('mIoU'))


def _run_mean(run):
    mean = run.results.get('mean')
    return number(mean.get('mIoU')) if isinstance(mean, dict) else None


def _value(run, column):
    if column == MEAN:
        return _run_mean(run)
    return _miou(run.results['domains'][column])


def _compare_values(found):
    first = found.groups[0]
    for column in found.columns:
        found.values[column] = {
            group.name: [_value(run, column) for run in group.runs]
            for group in found.groups
        }
        base = _by_seed(first, column)
        found.differences[column] = {
            group.name: paired_difference(_by_seed(group, column), base)
            for group in found.groups[1:]
        }


def _by_seed(group, column):
    """Return seed -> value; empty where a seed is unknown or double."""
    seeds = [run.seed for run in group.runs]
    if None in seeds or len(set(seeds)) < len(seeds):
        return {}
    return {
        str(seed): _value(run, column)
        for seed, run in zip(seeds, group.runs, strict=True)
    }


def _compare_classes(found):
    """Average the IoU of each class over targets, then over seeds."""
    domains = [c for c in found.columns if c != MEAN]
    classes = found.groups[0].runs[0].results['classes']
    for name in classes:
        row = found.classes.setdefault(name, {})
        for group in found.groups:
            values = []
            for run in group.runs:
                targets = [d for d in domains if d not in run.sources]
                value = class_mean(run, name, targets)
                if value is not None:
                    values.append(value)
            row[group.name] = sum(values) / len(values) if values else None


def class_mean(run: Run, name: str, domains: Sequence[str]) -> float | None:
    """Average the IoU of a class over domains.

    Args:
        run: With results.
        name: The class.
        domains: Domains.

    Returns:
        Percent, over the domains in which the class has an IoU; None if it
        has none.
    """
    tables = (run.results or {}).get('domains', {})
    values = [
        value
        for domain in domains
        if (value := number((tables[domain].get('class_iou') or {}).get(name)))
        is not None
    ]
    return sum(values) / len(values) if values else None


def _shorten(value):
    text = value if isinstance(value, str) else repr(value)
    return text if len(text) <= _LONGEST else text[: _LONGEST - 3] + '...'


def spread_text(values: Sequence[float]) -> str:
    """Format mean and deviation, with two digits."""
    return spread(values, digits=2)
