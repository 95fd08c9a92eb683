"""Entry point of the ablation: train, collect, write tables."""

import time
from collections.abc import Sequence
from pathlib import Path

from ablation.pictures import draw_visualizations
from ablation.report import (
    collect,
    results_table,
    teacher_table,
)
from ablation.rows import choose
from ablation.schedule import Run, train_all
from clouds_mmseg.engine.hooks.results import to_json
from clouds_mmseg.utils.atomic import atomic_path
from clouds_mmseg.utils.errors import UserError
from clouds_mmseg_cli.cfg_options import parse_options


def run_ablation(
    *,
    work_dir: str | Path,
    seeds: Sequence[int],
    rows: Sequence[str],
    jobs: int,
    cfg_options: Sequence[str] = (),
    dry_run: bool = False,
) -> None:
    """Train rows with seeds, then write tables and visualizations.

    Args:
        work_dir: Receives ``seed<N>/<row>/``, ``ablation.md``,
            ``ablation.json`` and ``pictures``.
        seeds: Seeds.
        rows: Names of rows.
        jobs: Trainings in parallel.
        cfg_options: ``key=value``, for every run.
        dry_run: Only print the commands.

    Raises:
        UserError: An option is wrong, or a training failed.
    """
    if jobs < 1:
        raise UserError(f'--jobs must be at least 1, got {jobs}')
    if len(set(seeds)) < len(seeds):
        raise UserError(f'--seeds: each of them once, got {seeds}')
    try:
        parse_options(cfg_options)
    except ValueError as error:
        raise UserError(f'--cfg-options: {error}') from error
    root = Path(work_dir)
    runs = [
        Run(row, seed, root / f'seed{seed}' / row.name, tuple(cfg_options))
        for seed in seeds
        for row in sorted(choose(rows), key=lambda r: r.warm_up is not None)
    ]
    if dry_run:
        for run in runs:
            print(' '.join(run.command()))
        return
    begin = time.monotonic()
    train_all(runs, jobs=jobs)
    minutes = (time.monotonic() - begin) / 60
    order = [row.name for row in choose(rows)]
    found = collect(sorted(runs, key=lambda r: order.index(r.row.name)))
    text = results_table(found)
    teacher = teacher_table(found)
    if teacher:
        text += '\n\n' + teacher
    with atomic_path(root / 'ablation.json') as temporary:
        temporary.write_text(to_json(found) + '\n')
    with atomic_path(root / 'ablation.md') as temporary:
        temporary.write_text(text + '\n')
    # Before printing the tables, because building models writes log lines.
    pictures = draw_visualizations(runs, root / 'pictures')
    print(
        'Mean IoU in percent'
        + (
            f', mean ± standard deviation over {len(seeds)} seeds'
            if len(seeds) > 1
            else f', seed {seeds[0]}'
        )
    )
    print(text)
    for path in pictures:
        print(f'Picture: {path}')
    print(f'Tables: {root / "ablation.md"} (this took {minutes:.1f} min)')
