"""Tables of the ablation."""

import json
from collections.abc import Sequence
from statistics import mean, stdev

from ablation.schedule import Run
from clouds_mmseg.engine.hooks.self_training import FILE_NAME
from clouds_mmseg.utils.tables import format_table


def spread(values: Sequence[float], digits: int = 1) -> str:
    """Format mean and sample standard deviation over seeds.

    Args:
        values: One value per seed.
        digits: Decimal places.

    Returns:
        Such as ``'40.1 ± 0.6'``; the value alone if there is only one.
    """
    text = f'{mean(values):.{digits}f}'
    if len(values) > 1:
        text += f' ± {stdev(values):.{digits}f}'
    return text


def collect(runs: Sequence[Run]) -> dict[str, dict]:
    """Read the results of finished runs.

    Args:
        runs: Finished runs.

    Returns:
        By row: ``title``, ``seeds``, ``mIoU`` (domain -> one percentage a
        seed; ``mean`` is over the targets) and ``teacher`` (one dict a seed,
        as ``PseudoLabelAccuracyHook`` writes them; empty where there was no
        self-training).
    """
    rows = {}
    for run in runs:
        row = rows.setdefault(
            run.row.name,
            dict(title=run.row.title, seeds=[], mIoU={}, teacher=[]),
        )
        row['seeds'].append(run.seed)
        metrics = run.results()['metrics']
        for key, value in metrics.items():
            domain, _, name = key.rpartition('/')
            if key == 'mean_mIoU':
                domain, name = 'mean', 'mIoU'
            if name == 'mIoU':
                row['mIoU'].setdefault(domain, []).append(value)
        teacher = run.folder / FILE_NAME
        if teacher.is_file():
            row['teacher'].append(json.loads(teacher.read_text()))
    return rows


def results_table(rows: dict) -> str:
    """Tabulate mean IoU per row and domain, and the gain over the first row.

    Args:
        rows: See :func:`collect`.

    Returns:
        Markdown. Gains are differences between runs of the same seed.
    """
    first = next(iter(rows.values()))
    domains = [d for d in first['mIoU'] if d != 'mean']
    names = [d.removeprefix('toycity_') for d in domains]
    lines = []
    for row in rows.values():
        gains = [
            ours - theirs
            for ours, theirs in zip(
                row['mIoU']['mean'], first['mIoU']['mean'], strict=True
            )
        ]
        cells = [spread(row['mIoU'][d]) for d in [*domains, 'mean']]
        gain = '' if row is first else '+' * (mean(gains) > 0) + spread(gains)
        lines.append([row['title'], *cells, gain])
    columns = ['', *names, 'mean of targets', 'gain']
    return format_table(columns, lines, markdown=True)


def teacher_table(rows: dict) -> str:
    """Tabulate pseudo-label accuracy before and after refinement.

    Args:
        rows: See :func:`collect`.

    Returns:
        Markdown; empty if no row had a teacher.
    """
    lines = []
    for row in rows.values():
        if not row['teacher']:
            continue
        for iteration in row['teacher'][0]:
            at = [seed[iteration] for seed in row['teacher']]
            cells = []
            for name in ('mIoU', 'aAcc'):
                for when in ('before', 'after'):
                    values = [x[when][name] for x in at if when in x]
                    cells.append(spread(values) if values else '-')
            lines.append([row['title'], iteration, *cells])
    if not lines:
        return ''
    return format_table(
        [
            '',
            'iteration',
            'mIoU before',
            'mIoU after',
            'pixels right before',
            'pixels right after',
        ],
        lines,
        markdown=True,
    )
