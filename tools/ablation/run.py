"""Entry point of the ablation: train, collect, write tables and plots."""

import json
import time
from collections.abc import Sequence
from pathlib import Path

from ablation.pictures import draw_visualizations
from ablation.plots import plot_accuracy, plot_gains
from ablation.quality import FEWEST_ROWS, ranks_table
from ablation.report import (
    collect,
    differences_table,
    merge,
    results_table,
    teacher_table,
)
from ablation.rows import SCHEDULES, choose
from ablation.schedule import Run, train_all
from clouds_mmseg.engine.hooks.results import to_json
from clouds_mmseg.utils.atomic import atomic_path
from clouds_mmseg.utils.errors import UserError
from clouds_mmseg.utils.text_files import split_marked
from clouds_mmseg_cli.cfg_options import parse_options

_MARKS = ('<!-- begin: tools/ablation.py -->', '<!-- end -->')


def run_ablation(
    *,
    work_dir: str | Path,
    seeds: Sequence[int] | None,
    rows: Sequence[str],
    schedules: Sequence[str],
    jobs: int,
    cfg_options: Sequence[str] = (),
    dry_run: bool = False,
    docs: str | Path | None = None,
) -> None:
    """Train rows with seeds, then write tables, plots and visualizations.

    Args:
        work_dir: Receives ``<schedule>/seed<N>/<row>/``, ``ablation.md``,
            ``ablation.json``, ``plots`` and ``pictures``.
        seeds: Seeds of every row; None: as many as each row has by default.
        rows: Names of rows.
        schedules: Names of schedules.
        jobs: Trainings in parallel.
        cfg_options: ``key=value``, for every run.
        dry_run: Only print the commands.
        docs: Folder of ``ablation.json`` and ``ablation.md``: the results are
            added to the first, from which the tables of the second and
            ``images/ablation_*.png`` are made anew.

    Raises:
        UserError: An option is wrong, or a training failed.
    """
    if jobs < 1:
        raise UserError(f'--jobs must be at least 1, got {jobs}')
    if seeds is not None and len(set(seeds)) < len(seeds):
        raise UserError(f'--seeds: each of them once, got {seeds}')
    try:
        parse_options(cfg_options)
    except ValueError as error:
        raise UserError(f'--cfg-options: {error}') from error
    root = Path(work_dir)
    runs = [
        Run(
            row,
            SCHEDULES[schedule],
            seed,
            root / schedule / f'seed{seed}' / row.name,
            tuple(cfg_options),
        )
        for schedule in schedules
        for seed, row in _seeds_and_rows(schedule, rows, seeds)
    ]
    if not runs:
        raise UserError(
            f'--rows {" ".join(rows)} have no seeds by default in the '
            f'schedule {" ".join(schedules)}: name them, such as --seeds 0 1'
        )
    if dry_run:
        for run in runs:
            print(' '.join(run.command()))
        return
    begin = time.monotonic()
    train_all(runs, jobs=jobs)
    minutes = (time.monotonic() - begin) / 60
    # Of fewer rows no table is made, but docs may have the others.
    quality = docs is not None or len(rows) >= FEWEST_ROWS
    found = {
        schedule: collect(
            (r for r in runs if r.schedule.name == schedule), quality=quality
        )
        for schedule in schedules
    }
    print('Pictures are drawn', flush=True)
    # Before printing the tables, because building models writes log lines.
    pictures = draw_visualizations(runs, root / 'pictures')
    results = _write_results(root / 'ablation.json', found)
    text = describe(results)
    with atomic_path(root / 'ablation.md') as temporary:
        temporary.write_text(text + '\n')
    _draw_plots(results, root / 'plots')
    print(text)
    for path in pictures:
        print(f'Picture: {path}')
    print(f'Tables: {root / "ablation.md"} (this took {minutes:.1f} min)')
    if docs is not None:
        update_docs(Path(docs), found)


def _seeds_and_rows(schedule, names, seeds):
    """List pairs of seed and row in the order in which they are trained."""
    chosen = choose(names)
    most = max(max(row.num_seeds) for row in chosen)
    pairs = []
    for seed in range(most) if seeds is None else seeds:
        present = [
            row.name
            for row in chosen
            if seeds is not None or row.has_seed(seed, schedule)
        ]
        rows = sorted(choose(present), key=lambda r: r.warm_up is not None)
        pairs += [(seed, row) for row in rows]
    return pairs


def update_docs(folder: Path, found: dict[str, dict]) -> None:
    """Add results to ``ablation.json``; make tables and plots of it.

    Args:
        folder: With ``ablation.md``, whose part between two comments is
            replaced.
        found: Schedule -> results, see :func:`~ablation.report.collect`.

    Raises:
        UserError: ``ablation.md`` lacks the comments.
    """
    page = folder / 'ablation.md'
    before, after = split_marked(page, _MARKS)
    results = _write_results(folder / 'ablation.json', found)
    with atomic_path(page) as temporary:
        temporary.write_text(f'{before}\n\n{describe(results)}\n\n{after}')
    _draw_plots(results, folder / 'images')
    print(f'Updated: {page}')


def describe(results: dict[str, dict]) -> str:
    """Format the tables of all schedules that have results.

    Args:
        results: Schedule -> results.

    Returns:
        Markdown.
    """
    parts = []
    for data in results.values():
        seeds = _seeds_of(data['rows'])
        over = f'mean ± standard deviation over the seeds {seeds}'
        parts.append(
            f'### {data["schedule"]} iterations\n\nmIoU in percent, '
            + (f'seed {seeds}' if seeds.isdigit() else over)
            + '.\n\n'
            + results_table(data)
        )
        differences = differences_table(data)
        if differences:
            parts.append(
                'Differences of the mean of the targets, seed by seed, with '
                'the 95 % interval of their mean.\n\n' + differences
            )
        teacher = teacher_table(data)
        if teacher:
            parts.append(
                'Pseudo labels against the true labels of 64 generated '
                'scenes, before and after refinement, in percent.\n\n'
                + teacher
            )
        ranks = ranks_table(data)
        if ranks:
            parts.append(
                "Rank correlation (Spearman's) over the rows between what can "
                'be measured without a target and the mean of the targets, '
                'mean over the seeds.\n\n' + ranks
            )
    return '\n\n'.join(parts)


def _seeds_of(rows):
    """Tell the seeds of the rows, and which rows have fewer."""
    by_row = {name: sorted(values, key=int) for name, values in rows.items()}
    every = sorted({s for seeds in by_row.values() for s in seeds}, key=int)
    fewer: dict[str, list[str]] = {}
    for name, seeds in by_row.items():
        if seeds != every:
            fewer.setdefault(', '.join(seeds), []).append(f'`{name}`')
    return ', '.join(every) + ''.join(
        f' ({", ".join(names)}: {seeds})' for seeds, names in fewer.items()
    )


def _write_results(path, found):
    """Add results to a file; return all of them, schedule -> results."""
    known = json.loads(path.read_text()) if path.is_file() else {}
    longer = known.pop('longer', {})
    results = {
        'short': merge(known, found.get('short', {})),
        'long': merge(longer, found.get('long', {})),
    }
    stored = dict(results['short'])
    if results['long'].get('rows'):
        stored['longer'] = results['long']
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary:
        temporary.write_text(to_json(stored) + '\n')
    return {name: data for name, data in results.items() if data.get('rows')}


def _draw_plots(results, folder):
    titled = {data['schedule']: data for data in results.values()}
    plot_gains(titled, folder / 'ablation_gains.png')
    for name, data in results.items():
        if data.get('teacher'):
            plot_accuracy(data, folder / f'ablation_labels_{name}.png')
