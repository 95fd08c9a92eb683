"""The page of a report, put together from what was read.

Names, captions and configs come from files that anyone may have written: the
template escapes all of them, and the page allows no script but its own.
"""

import base64
import hashlib
import math
import os
import shlex
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
from markupsafe import Markup, escape

from clouds_mmseg.report import compare, curves, pictures
from clouds_mmseg.report.curves import Request, Series
from clouds_mmseg.report.read_run import Run, number, read_runs
from clouds_mmseg.utils.atomic import atomic_path
from clouds_mmseg.utils.errors import UserError
from clouds_mmseg.version import __version__

_HERE = Path(__file__).parent
_CONFUSED = 3
_WORST = 5
# Iterations of which pseudo-labels are shown.
_STEPS = 8
# A decoder layer before the last has losses of its own: decode.d3.loss_mask.
_PARTS = ('loss_cls', 'loss_mask', 'loss_dice', 'loss_ce')
_TEACHER = {
    'kept': 'pixels kept',
    'confidence': 'confidence of the teacher',
    'agreement': 'unchanged by refinement',
    'expected_iou': 'expected IoU of the regions',
    'view_agreement': 'same label in two views',
}


class Written(NamedTuple):
    """What a report holds.

    Attributes:
        path: The file.
        size: Its size in bytes.
        runs: The runs.
        pictures: Number of pictures inside.
        notes: What is missing, with the name of the run.
    """

    path: Path
    size: int
    runs: list[Run]
    pictures: int
    notes: list[str]


def write_report(
    folders: Sequence[str | Path],
    out: str | Path,
    *,
    title: str | None = None,
    pictures_per_domain: int = 2,
) -> Written:
    """Write a report of trainings and evaluations.

    Nothing is built, trained or executed: the files in the work dirs are read.

    Args:
        folders: Work dirs. The configs of all others are compared with that
            of the first.
        out: HTML file, replaced if it exists.
        title: Of the page; by default the names of the runs.
        pictures_per_domain: Images of each domain that are shown, and as many
            of the worst; 0 leaves out all pictures.

    Returns:
        What was written.

    Raises:
        UserError: A folder holds no run, a file is broken, or ``out`` cannot
            be written.
    """
    if pictures_per_domain < 0:
        raise UserError(
            f'the number of pictures must be at least 0, got '
            f'{pictures_per_domain}'
        )
    out = _require_writable(Path(out))
    runs = read_runs(folders)
    text, count = render(runs, title, pictures_per_domain)
    with atomic_path(out) as temporary:
        temporary.write_text(text, encoding='utf-8')
    notes = [f'{run.name}: {note}' for run in runs for note in run.notes]
    return Written(out, out.stat().st_size, runs, count, notes)


def _require_writable(out):
    """Find out before the work that the file can be written."""
    if out.suffix.lower() not in ('.html', '.htm'):
        raise UserError(
            f'--out {out}: the report is an HTML file, give it a name that '
            'ends with .html'
        )
    if out.is_dir():
        raise UserError(f'--out {out} is a folder: give the name of a file')
    folder = out.parent
    while not folder.exists():
        folder = folder.parent
    if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        raise UserError(
            f'--out {out} cannot be written: no files can be created in '
            f'{folder}; choose another folder'
        )
    return out


def render(
    runs: Sequence[Run], title: str | None, pictures_per_domain: int
) -> tuple[str, int]:
    """Render the page.

    Args:
        runs: As read.
        title: Of the page; None takes the names of the runs.
        pictures_per_domain: See :func:`write_report`.

    Returns:
        The HTML, and the number of pictures in it.
    """
    style = (_HERE / 'style.css').read_text(encoding='utf-8')
    script = (_HERE / 'script.js').read_text(encoding='utf-8')
    digest = hashlib.sha256(script.encode()).digest()
    context = dict(
        title=title or _default_title(runs),
        version=__version__,
        created=datetime.now(timezone.utc).strftime('%Y-%m-%d %H:%M UTC'),
        style=Markup(style),
        script=Markup(script),
        script_hash='sha256-' + base64.b64encode(digest).decode(),
        runs=[_summary(run) for run in runs],
        highest_shown=any(_highest(run) for run in runs),
        grouping=compare.GROUPING,
        most_confused=_CONFUSED,
        most_worst=_WORST,
    )
    context |= _curves(runs)
    context |= _tables(runs)
    context |= _confusion(runs)
    context |= _pictures(runs, pictures_per_domain)
    context |= _teacher(runs, pictures_per_domain)
    context['comparison'] = _comparison(runs) if len(runs) > 1 else None
    context['data'] = dict(
        plots={
            plot['key']: plot['points']
            for plot in (*context['curves'], *context['teacher_plots'])
        },
        confusion=list(context['confusion'].values()),
    )
    context['sections'] = _sections(context)
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_HERE),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
    )
    environment.filters['breakable'] = _breakable
    # Domains stay in their order.
    environment.policies['json.dumps_kwargs'] = dict(allow_nan=False)
    text = environment.get_template('template.html').render(context)
    return text, text.count('<img ')


def _breakable(text):
    """Escape a text, and let a browser break it after each underscore."""
    return Markup(str(escape(text)).replace('_', '_<wbr>'))


def _default_title(runs):
    names = [run.name for run in runs]
    if len(names) > 3:
        return f'{names[0]} and {len(names) - 1} other runs'
    return ', '.join(names)


def _sections(context):
    """Return id and title of the sections that the page has."""
    found = [
        ('summary', 'Summary', True),
        ('curves', 'Curves', context['curves']),
        ('results', 'Results', context['domain_columns']),
        ('comparison', 'Differences', context['comparison']),
        ('confusion', 'Confusion', context['confusion']),
        (
            'pictures',
            'Predictions',
            context['first_figures'] or context['picture_notes'],
        ),
        (
            'pseudo',
            'Pseudo-labels',
            context['teacher_plots']
            or context['steps']
            or context['teacher_tables'],
        ),
        ('worst', 'Worst images', context['worst_tables']),
        ('repeat', 'To repeat it', True),
    ]
    return [(id_, name) for id_, name, present in found if present]


def _summary(run):
    """Return what the page says about a run, apart from its numbers."""
    results = run.results or {}
    state = 'finished'
    if run.trained is None:
        state = 'not trained here'
    elif run.planned is None:
        state = f'{run.trained} iterations'
    elif run.is_unfinished:
        state = f'unfinished: {run.trained} of {run.planned} iterations'
    details = [state]
    for name, value in (
        ('results of iteration', results.get('iteration')),
        ('seed', run.seed),
        ('protocol', results.get('protocol')),
    ):
        if value is not None:
            details.append(f'{name} {value}')
    facts = [*run.about] or _facts_of_config(run.config)
    highest = _highest(run)
    if highest:
        facts.append(('highest on the way', highest))
    facts.append(('evaluated', _date(results.get('date'))))
    return dict(
        name=run.name,
        state=', '.join(details),
        headline=_headline(results),
        facts=[(k, v) for k, v in facts if v not in (None, '')],
        notes=run.notes,
        command=run.command or _command(run),
        command_about='The command of these results.'
        if run.command
        else 'The command was not recorded; this one trains the same config.',
        repeat=_repeat(run),
        evaluations=[
            dict(
                folder=folder,
                phase=found.get('phase'),
                iteration=found.get('iteration'),
                protocol=found.get('protocol'),
                value=_text((found.get('mean') or {}).get('mIoU')),
            )
            for folder, found in run.evaluations
        ],
        config_text=run.config_text,
        environment=run.environment,
        files=run.files,
    )


def _date(text):
    """Format the date of results for people."""
    try:
        date = datetime.fromisoformat(str(text)).astimezone(timezone.utc)
    except ValueError:
        return text
    return f'{date:%Y-%m-%d %H:%M} UTC'


def _facts_of_config(config):
    """Describe a training by its config, where there is no log."""
    model, data = config.get('model'), config.get('train_dataloader')
    facts = []
    if isinstance(model, dict):
        facts.append(('model', model.get('type')))
        if isinstance(model.get('backbone'), dict):
            facts.append(('backbone', model['backbone'].get('type')))
    if isinstance(data, dict) and isinstance(data.get('dataset'), dict):
        facts.append(('train', _describe_dataset(data['dataset'])))
    return facts


def _describe_dataset(part):
    if isinstance(part.get('datasets'), list):
        parts = [p for p in part['datasets'] if isinstance(p, dict)]
        return ', '.join(map(_describe_dataset, parts))
    name = part.get('domain') or part.get('type')
    root = part.get('data_root') or part.get('bank')
    return f'{name} ({root})' if root else str(name)


def _headline(results):
    """Return the value that stands for a run, and what it is."""
    mean = results.get('mean')
    value = number(mean.get('mIoU')) if isinstance(mean, dict) else None
    if value is not None:
        return dict(value=value, name='mIoU, mean of the targets')
    metrics = results.get('metrics') or {}
    value = number(metrics.get('mIoU'))
    return None if value is None else dict(value=value, name='mIoU')


def _highest(run):
    """Describe the highest value of the validations, if there are several."""
    curve = {
        step: value
        for step, value in run.curves.get('mean_mIoU', {}).items()
        if math.isfinite(value)
    }
    if len(curve) < 2:
        return None
    step = max(curve, key=curve.__getitem__)
    return f'{curve[step]:.2f} at iteration {step}'


def _command(run):
    """Return a command that trains the config of the work dir."""
    files = sorted(run.folder.glob('*.py'))
    if len(files) != 1:
        return None
    return f'clouds train {shlex.quote(str(files[0]))} --work-dir NEW_FOLDER'


def _repeat(run):
    results = run.results or {}
    facts = [('work dir', run.folder)]
    config = results.get('config')
    if isinstance(config, dict):
        facts.append(('config', config.get('path')))
    facts += [('seed', run.seed), ('commit', results.get('commit'))]
    checkpoint = results.get('checkpoint')
    if isinstance(checkpoint, dict):
        facts.append(('checkpoint', checkpoint.get('path')))
        facts.append(('its SHA-256', checkpoint.get('sha256')))
    versions = results.get('versions')
    if isinstance(versions, dict):
        shown = ', '.join(f'{k} {v}' for k, v in versions.items())
        facts.append(('versions', shown))
    facts += [
        ('device', results.get('device')),
        ('processes', results.get('processes')),
        ('seconds', results.get('seconds')),
    ]
    return [(name, value) for name, value in facts if value is not None]


def _named(runs, key):
    """Return a curve of each run that has it."""
    return [
        Series(run.name, run.curves[key], i)
        for i, run in enumerate(runs)
        if key in run.curves
    ]


def _begins(runs):
    """Return the iterations at which self-training begins."""
    found = set()
    for run in runs:
        train = run.config.get('train_cfg')
        begin = train.get('warmup_iters') if isinstance(train, dict) else None
        # Source-only trainings have it at their end.
        if isinstance(begin, int) and 0 < begin < (run.planned or math.inf):
            found.add(begin)
    return sorted(found)


def _curves(runs):
    marks = _begins(runs)
    note = 'The dashed line marks the beginning of self-training.'
    note = note if marks else ''
    requests = [Request('Loss', _named(runs, 'loss'), marks, note)]
    if len(runs) == 1:
        names = [
            name
            for name in runs[0].curves
            if name.count('.') <= 1 and name.endswith(_PARTS)
        ]
        parts = [
            Series(name, runs[0].curves[name], i)
            for i, name in enumerate(names)
        ]
        requests.append(Request('Parts of the loss', parts, marks))
    requests += [
        Request('Learning rate', _named(runs, 'lr'), marks),
        Request('Norm of the gradients', _named(runs, 'grad_norm'), marks),
        Request(
            'mIoU in validation, mean of the targets, percent',
            _named(runs, 'mean_mIoU'),
            marks,
        ),
    ]
    if len(runs) == 1:
        found = [n for n in runs[0].curves if n.endswith('/mIoU')]
        found = [n for n in found if not n.startswith('pseudo_label/')]
        domains = [
            Series(name.removesuffix('/mIoU'), runs[0].curves[name], i)
            for i, name in enumerate(found)
        ]
        requests.append(
            Request('mIoU in validation by domain, percent', domains, marks)
        )
    return dict(curves=_keyed('curve', curves.draw(requests, 'curve')))


def _keyed(prefix, plots):
    return [
        dict(vars(plot), key=f'{prefix}-{i}') for i, plot in enumerate(plots)
    ]


def _tables(runs):
    """Return the tables by domain and by class."""
    domains: list[str] = []
    for run in runs:
        found = (run.results or {}).get('domains') or {}
        domains += [name for name in found if name not in domains]
    rows, tables = [], []
    for run in runs:
        results = run.results or {}
        reports = results.get('domains') or {}
        if not reports:
            continue
        values = [
            number(reports[d]['metrics'].get('mIoU')) if d in reports else None
            for d in domains
        ]
        mean = number((results.get('mean') or {}).get('mIoU'))
        rows.append(
            dict(
                name=run.name,
                protocol=results.get('protocol') or '-',
                values=[mean, *values],
            )
        )
        tables.append(_class_table(run, reports))
    return dict(domain_columns=domains, domain_rows=rows, class_tables=tables)


def _class_table(run, reports):
    targets = [domain for domain in reports if domain not in run.sources]
    rows = [
        (
            name,
            [
                compare.class_mean(run, name, targets),
                *(
                    number((report.get('class_iou') or {}).get(name))
                    for report in reports.values()
                ),
            ],
        )
        for name in run.results['classes']
    ]
    names = dict.fromkeys(
        key for report in reports.values() for key in report['metrics']
    )
    mean = run.results.get('mean') or {}
    footer = [
        (
            name,
            [
                _text(mean.get(name)),
                *(_text(r['metrics'].get(name)) for r in reports.values()),
            ],
        )
        for name in names
    ]
    images = [str(r.get('images', '-')) for r in reports.values()]
    footer.append(('images', ['', *images]))
    return dict(
        name=run.name,
        domains=list(reports),
        sources=[d for d in reports if d in run.sources],
        rows=rows,
        footer=footer,
    )


def _text(value):
    value = number(value)
    return '-' if value is None else f'{value:.2f}'


def _confusion(runs):
    """Return the matrices for the script, and the list of what is confused."""
    matrices, lists = {}, []
    for run in runs:
        reports = (run.results or {}).get('domains') or {}
        found = {
            domain: report['confusion']
            for domain, report in reports.items()
            if report.get('confusion')
        }
        if not found:
            continue
        names = [*map(str, run.results['classes'])]
        # A single class is compared with everything else.
        if any(len(m) > len(names) for m in found.values()):
            names.append('background')
        matrices[run.name] = dict(names=names, domains=found)
        rows = []
        for domain, matrix in found.items():
            rows += _most_confused(domain, matrix, names)
        lists.append((run.name, rows))
    return dict(confusion=matrices, confused=lists)


def _most_confused(domain, matrix, names):
    pairs = sorted(
        (
            (count, i, j)
            for i, row in enumerate(matrix)
            for j, count in enumerate(row)
            if i != j and count
        ),
        reverse=True,
    )
    return [
        dict(
            domain=domain,
            label=names[i],
            prediction=names[j],
            share=100 * count / sum(matrix[i]),
            pixels=count,
        )
        for count, i, j in pairs[:_CONFUSED]
    ]


def _pictures(runs, most):
    worst = _worst_names(runs, most)
    first = _first_names(runs, worst, most)
    first_figures, notes = pictures.collect_figures(runs, first)
    worst_figures, more = pictures.collect_figures(runs, worst)
    tables = []
    for run in runs:
        rows = []
        for domain in dict.fromkeys(r['domain'] for r in run.images):
            rows += _ranked(run, domain)[:_WORST]
        if rows:
            rows = [
                dict(
                    domain=row['domain'],
                    name=row.get('name'),
                    path=row.get('path'),
                    mIoU=number(row.get('mIoU')),
                    aAcc=number(row.get('aAcc')),
                )
                for row in rows
            ]
            tables.append(dict(name=run.name, rows=rows))
    shown = [*first_figures, *worst_figures]
    kinds = list(
        dict.fromkeys(layer.kind for f in shown for layer in f.layers)
    )
    right = [kind for kind in kinds if kind.startswith('prediction')]
    return dict(
        first_figures=first_figures,
        worst_figures=worst_figures,
        picture_notes=sorted({*notes, *more}),
        worst_tables=tables,
        kinds=kinds,
        right_kind=right[0] if right else None,
        colors=pictures.class_colors(runs),
    )


def _ranked(run, domain):
    """Return the images of a domain, the worst first."""
    found = [r for r in run.images if r['domain'] == domain]
    found = [r for r in found if number(r.get('mIoU')) is not None]
    return sorted(found, key=lambda record: record['mIoU'])


def _worst_names(runs, most):
    """Choose drawings of the worst images: domain -> names."""
    chosen: dict[str, list[str]] = {}
    for run in runs:
        for domain, panels in run.panels.items():
            # Of the drawings, as they are not all of the worst.
            ranked = _ranked(run, domain)[: max(most, _WORST)]
            names = [r['name'] for r in ranked if r.get('name') in panels]
            kept = chosen.setdefault(domain, [])
            kept += [n for n in names if n not in kept][: most - len(kept)]
    return chosen


def _first_names(runs, worst, most):
    """Choose drawings in the order of the data: domain -> names."""
    chosen: dict[str, list[str]] = {}
    for run in runs:
        order = {
            (r['domain'], r.get('name')): i for i, r in enumerate(run.images)
        }
        for domain, panels in run.panels.items():
            names = sorted(
                panels, key=lambda n, d=domain: (order.get((d, n), 0), n)
            )
            names = [n for n in names if n not in worst.get(domain, ())]
            kept = chosen.setdefault(domain, [])
            kept += [n for n in names if n not in kept][: most - len(kept)]
    return chosen


def _teacher(runs, most):
    """Return curves, pictures and tables of the pseudo-labels."""
    measured = []
    for i, run in enumerate(runs):
        for when in ('before', 'after'):
            curve = {
                step: value
                for step, report in run.teacher.items()
                if (value := _teacher_value(report, when)) is not None
            }
            name = f'{when} refinement'
            if len(runs) > 1:
                name = f'{run.name}, {name}'
            if curve:
                second = when == 'before'
                measured.append(Series(name, curve, i, second))
    requests = [
        Request(
            'mIoU of the pseudo-labels, percent',
            measured,
            note='Against true labels that nothing is trained on.',
        )
    ]
    for key, title in _TEACHER.items():
        requests.append(
            Request(
                f'{title[0].upper()}{title[1:]}, share',
                _named(runs, f'pseudo_label/{key}'),
            )
        )
    plots = _keyed('teacher', curves.draw(requests, 'teacher'))
    steps = []
    if most:
        for run in runs:
            found = pictures.collect_steps(run, _STEPS)
            if found:
                steps.append((run.name, found))
    tables = [t for run in runs if (t := _teacher_table(run))]
    return dict(teacher_plots=plots, steps=steps, teacher_tables=tables)


def _teacher_value(report, when):
    part = report.get(when)
    return number(part.get('mIoU')) if isinstance(part, dict) else None


def _teacher_table(run):
    """Return IoU by class of the labels that are trained on, over time."""
    steps = pictures.evenly(sorted(run.teacher), _STEPS)
    if not steps:
        return None
    refined = all('after' in run.teacher[step] for step in steps)
    when = 'after' if refined else 'before'
    found = {}
    for step in steps:
        part = run.teacher[step].get(when)
        values = part.get('IoU') if isinstance(part, dict) else None
        found[step] = values if isinstance(values, dict) else {}
    names = dict.fromkeys(name for values in found.values() for name in values)
    if not names:
        return None
    return dict(
        name=run.name,
        when=when,
        images=run.teacher[steps[-1]].get('images', '?'),
        steps=steps,
        rows=[
            (name, [number(found[step].get(name)) for step in steps])
            for name in names
        ],
    )


def _comparison(runs):
    """Turn a comparison into cells of tables."""
    found = compare.compare(runs)
    if not found.groups:
        return dict(notes=found.notes, columns=[])
    base = found.groups[0].name
    groups = [
        dict(
            name=group.name,
            runs=group.runs,
            seeds=', '.join(str(run.seed) for run in group.runs),
            cells=[
                (
                    compare.spread_text(found.values[column][group.name]),
                    sum(found.values[column][group.name]) / len(group.runs),
                )
                for column in found.columns
            ],
        )
        for group in found.groups
    ]
    differences = []
    for group in found.groups[1:]:
        cells = [
            _difference_cell(found.differences[column][group.name])
            for column in found.columns
        ]
        by_seed = ''
        if compare.MEAN in found.columns:
            difference = found.differences[compare.MEAN][group.name]
            if difference is not None:
                by_seed = ', '.join(f'{v:+.2f}' for v in difference.values)
        differences.append((group.name, cells, by_seed))
    classes = [
        (name, _class_cells(row, base)) for name, row in found.classes.items()
    ]
    return dict(
        notes=found.notes,
        columns=found.columns,
        base=base,
        groups=groups,
        differences=differences,
        classes=classes,
        configs=found.configs,
    )


def _difference_cell(difference):
    """Return text, value and kind: up or down where the interval says so."""
    if difference is None:
        return ('-', '', '')
    text = f'{difference.mean:+.2f}'
    kind = ''
    if not math.isinf(difference.margin):
        text += f' ± {difference.margin:.2f}'
        kind = 'up' if difference.low > 0 else kind
        kind = 'down' if difference.high < 0 else kind
    return (text, difference.mean, kind)


def _class_cells(row: dict[str, float | None], base: str) -> list[tuple]:
    cells: list[tuple[str, Any, str]] = []
    for name, value in row.items():
        if value is None:
            cells.append(('-', '', ''))
            continue
        text = f'{value:.2f}'
        start = row[base]
        if name != base and start is not None:
            text += f' ({value - start:+.2f})'
        cells.append((text, value, ''))
    return cells


def summary_lines(written: Written) -> list[str]:
    """Describe a report on the terminal, a line each."""
    lines = [f'note: {note}' for note in written.notes]
    size = written.size / 1e6
    lines.append(
        f'{written.path}: {size:.1f} MB, {len(written.runs)} run'
        f'{"" if len(written.runs) == 1 else "s"}, {written.pictures} pictures'
    )
    return lines
