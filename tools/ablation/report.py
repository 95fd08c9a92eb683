"""Results of the ablation, and their tables.

The results of a schedule are a dict, kept in ``ablation.json``::

    schedule  such as '200 + 200': iterations of both stages
    rows      row -> seed -> mean mIoU of the targets, in percent
    targets   row -> seed -> target -> mIoU
    source    row -> seed -> mIoU on the held-out part of the source
    restyled  row -> seed -> mIoU on the same images, restyled
    quality   row -> seed -> measure -> value, see ablation.quality
    teacher   row -> seed -> iteration -> accuracy of the pseudo labels, as
              PseudoLabelAccuracyHook writes it

The file holds the short schedule, and under ``longer`` the other one. Seeds
and iterations are strings, as JSON's keys are.
"""

import json
from collections.abc import Iterable, Mapping

from ablation.quality import measure_quality
from ablation.rows import ROWS
from ablation.schedule import Run
from clouds_mmseg.engine.hooks.self_training import FILE_NAME
from clouds_mmseg.utils.statistics import paired_difference, spread
from clouds_mmseg.utils.tables import format_table

# Domains that are no targets -> their key in the results.
_NO_TARGETS = dict(toycity_source='source', toycity_source_restyled='restyled')

# Rows that differ in one part of self-training.
_PARTS = (
    ('refinement', 'self_training'),
    ('self_training_plus', 'refinement'),
    ('self_training_plus', 'without_weights'),
    ('self_training_plus', 'without_mixing'),
    ('self_training_plus', 'without_refinement'),
    ('all_plus', 'all'),
)


def collect(runs: Iterable[Run], *, quality: bool = True) -> dict:
    """Read the results of the finished runs of one schedule.

    Args:
        runs: Runs; those that are not finished are left out.
        quality: Whether to measure what can be measured without a target.

    Returns:
        See above; empty dicts without a finished run.
    """
    data = {key: {} for key in ('rows', 'targets', 'source', 'restyled')}
    data.update(quality={}, teacher={})
    for run in runs:
        results = run.results()
        if results is None:
            continue
        data['schedule'] = run.schedule.title
        name, seed = run.row.name, str(run.seed)
        metrics = results['metrics']
        data['rows'].setdefault(name, {})[seed] = metrics['mean_mIoU']
        for key, value in metrics.items():
            domain, _, metric = key.rpartition('/')
            if metric != 'mIoU' or not domain:
                continue
            if domain in _NO_TARGETS:
                seeds = data[_NO_TARGETS[domain]].setdefault(name, {})
                seeds[seed] = value
            else:
                targets = data['targets'].setdefault(name, {})
                targets.setdefault(seed, {})[domain] = value
        if quality:
            measured = data['quality'].setdefault(name, {})
            measured[seed] = measure_quality(run)
        teacher = run.folder / FILE_NAME
        if teacher.is_file():
            found = json.loads(teacher.read_text())
            data['teacher'].setdefault(name, {})[seed] = found
    return data


def merge(known: Mapping, found: Mapping) -> dict:
    """Add results to those of other rows and seeds.

    Args:
        known: Results of a schedule, or empty.
        found: Results of the same schedule, which replace known ones.

    Returns:
        New results.
    """
    merged = json.loads(json.dumps(known))
    for key, value in found.items():
        if not isinstance(value, Mapping):
            merged[key] = value
            continue
        rows = merged.setdefault(key, {})
        for row, seeds in value.items():
            rows.setdefault(row, {}).update(seeds)
    return merged


def in_order(data: Mapping) -> list:
    """Return the rows that have results, in the order of the table."""
    return [row for row in ROWS if data.get('rows', {}).get(row.name)]


def results_table(data: Mapping) -> str:
    """Tabulate mIoU per row and domain, mean ± deviation over the seeds."""
    rows = in_order(data)
    domains = []
    for seeds in data['targets'].values():
        for values in seeds.values():
            domains += [d for d in values if d not in domains]
    lines = []
    for row in rows:
        seeds = data['targets'][row.name]
        cells = [spread([*data['source'][row.name].values()])]
        cells += [spread([s[d] for s in seeds.values()]) for d in domains]
        cells.append(spread([*data['rows'][row.name].values()]))
        lines.append([row.title, *cells])
    names = [domain.removeprefix('toycity_') for domain in domains]
    columns = ['row', 'source', *names, 'mean of targets']
    return format_table(columns, lines, markdown=True)


def differences_table(data: Mapping) -> str:
    """Tabulate paired differences: each row to its baseline, then parts.

    Returns:
        Markdown, with 95 % intervals over the seeds; empty if no two rows can
        be compared.
    """
    lines = []
    titles = {row.name: row.title.strip() for row in ROWS}
    pairs = [(row.name, row.baseline) for row in in_order(data)]
    for ours, theirs in (*pairs, *_PARTS):
        if not data['rows'].get(ours) or not data['rows'].get(theirs):
            continue
        found = paired_difference(data['rows'][ours], data['rows'][theirs])
        if found is None:
            continue
        by_seed = ', '.join(f'{value:+.1f}' for value in found.values)
        lines.append([titles[ours], titles[theirs], str(found), by_seed])
    if not lines:
        return ''
    columns = ['row', 'compared with', 'difference', 'by seed']
    return format_table(columns, lines, left=('compared with',), markdown=True)


def teacher_table(data: Mapping) -> str:
    """Tabulate pseudo-label accuracy before and after refinement.

    Returns:
        Markdown; the first and the last measurement of each row; empty if no
        row had a teacher.
    """
    lines = []
    for row in in_order(data):
        seeds = data['teacher'].get(row.name)
        if not seeds:
            continue
        iterations = sorted(next(iter(seeds.values())), key=int)
        for iteration in dict.fromkeys((iterations[0], iterations[-1])):
            at = [s[iteration] for s in seeds.values() if iteration in s]
            cells = []
            for name in ('mIoU', 'aAcc'):
                for when in ('before', 'after'):
                    values = [x[when][name] for x in at if when in x]
                    cells.append(spread(values) if values else '-')
            lines.append([row.title, iteration, *cells])
    if not lines:
        return ''
    return format_table(
        [
            'row',
            'iteration',
            'mIoU before',
            'mIoU after',
            'pixels right before',
            'pixels right after',
        ],
        lines,
        markdown=True,
    )
