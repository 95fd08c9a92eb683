"""What a work dir holds, read without building or executing anything.

A folder may come from another machine or version, and its run may be
unfinished: what is missing is noted, what is broken is an error.
"""

import math
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from clouds_mmseg.engine.hooks.results import IMAGES_FILE, RESULTS_FILE
from clouds_mmseg.engine.hooks.self_training import FILE_NAME as TEACHER_FILE
from clouds_mmseg.utils.config_file import parse_config_text
from clouds_mmseg.utils.errors import UserError
from clouds_mmseg.utils.image_set import sha256_of
from clouds_mmseg.utils.text_files import parse_json, read_json, read_text

# Points of a curve: iteration -> value, NaN where it was no number.
Curve = dict[int, float]
# The beginning of a log has the environment and what the run is about.
_LOG_HEAD = 400_000
_ABOUT = re.compile(r'The run:\n((?:  \S.*\n)+)')
_ENVIRONMENT = re.compile(r'System environment:\n(.*?)\n-{20}', re.DOTALL)
# torch's compiler flags: several thousand characters in one line.
_LONGEST_LINE = 200


@dataclass
class Run:
    """A work dir.

    Attributes:
        name: Short, unique in a report.
        folder: The work dir.
        results: ``results.json`` of the newest evaluation; None before one.
        evaluations: ``results.json`` of every log folder, oldest first, each
            with the folder's name.
        curves: Name of a scalar -> its values.
        teacher: Iteration -> ``pseudo_labels.json``'s measurements.
        config: As data; empty if unknown.
        config_text: Its text.
        about: Lines of the log about model, data and schedule: title, text.
        environment: Of the log, one text.
        images: Scores of single images of the newest evaluation.
        panels: Domain -> name of an image -> its drawing.
        pseudo_labels: Iteration -> drawings of pseudo-labels.
        trained: Iterations done; None if unknown.
        planned: Iterations of the config; None if unknown.
        notes: What is missing or doubtful, a sentence each.
        files: Files read: path, bytes, SHA-256.
    """

    name: str
    folder: Path
    results: dict | None = None
    evaluations: list[tuple[str, dict]] = field(default_factory=list)
    curves: dict[str, Curve] = field(default_factory=dict)
    teacher: dict[int, dict] = field(default_factory=dict)
    config: dict = field(default_factory=dict)
    config_text: str = ''
    about: list[tuple[str, str]] = field(default_factory=list)
    environment: str = ''
    images: list[dict] = field(default_factory=list)
    panels: dict[str, dict[str, Path]] = field(default_factory=dict)
    pseudo_labels: dict[int, list[Path]] = field(default_factory=dict)
    trained: int | None = None
    planned: int | None = None
    notes: list[str] = field(default_factory=list)
    files: list[tuple[str, int, str]] = field(default_factory=list)

    @property
    def is_unfinished(self) -> bool:
        """Whether the training is known to lack iterations."""
        if self.trained is None or self.planned is None:
            return False
        return self.trained < self.planned

    @property
    def seed(self) -> int | None:
        """Seed of the training."""
        found = (self.results or {}).get('seed')
        if found is None:
            part = self.config.get('randomness')
            found = part.get('seed') if isinstance(part, dict) else None
        return found if isinstance(found, int) else None

    @property
    def sources(self) -> list[str]:
        """Domains that are left out of the mean."""
        found = _evaluator(self).get('source_domains') or ()
        return [str(name) for name in found]

    @property
    def command(self) -> str | None:
        """The command of the newest evaluation or training."""
        return (self.results or {}).get('command')


def _evaluator(run):
    """Return the metric of the newest evaluation, as the config has it."""
    phase = (run.results or {}).get('phase', 'val')
    found = run.config.get(f'{phase}_evaluator')
    if isinstance(found, list):
        found = found[0] if found else None
    return found if isinstance(found, dict) else {}


def read_runs(folders: Sequence[str | Path]) -> list[Run]:
    """Read work dirs.

    Args:
        folders: Work dirs, each once.

    Returns:
        In the same order.

    Raises:
        UserError: A folder does not exist, holds no run, is given twice, or
            has a broken file.
    """
    paths = [Path(folder) for folder in folders]
    seen: dict[Path, Path] = {}
    for path in paths:
        other = seen.setdefault(path.resolve(), path)
        if other is not path:
            raise UserError(
                f'{path} is given twice (as {other}): name it once'
            )
    return [
        _read_run(path, name)
        for path, name in zip(paths, _names(list(seen)), strict=True)
    ]


def _names(paths):
    """Return the part of each path that tells it from the others."""
    if len(paths) == 1:
        return [paths[0].name or str(paths[0])]
    common = os.path.commonpath(paths)
    names = [path.relative_to(common).as_posix() for path in paths]
    return [
        path.name if name == '.' else name
        for path, name in zip(paths, names, strict=True)
    ]


def _read_run(folder, name):
    logs = _log_folders(folder)
    run = Run(name, folder)
    for log in logs:
        path = log / RESULTS_FILE
        if path.is_file():
            run.evaluations.append((log.name, _read_results(run, path)))
        _add_scalars(run, log / 'vis_data' / 'scalars.json')
        _add_pseudo_labels(run, log / 'vis_data' / 'vis_image')
    if (folder / RESULTS_FILE).is_file():
        run.results = _read_results(run, folder / RESULTS_FILE)
    elif run.evaluations:
        run.results = run.evaluations[-1][1]
    if (folder / TEACHER_FILE).is_file():
        run.teacher = _read_teacher(run, folder / TEACHER_FILE)
    _read_config(run, logs)
    _read_log(run, logs)
    _read_images(run)
    _find_panels(run, logs)
    _find_state(run)
    _take_notes(run)
    return run


def _log_folders(folder):
    """Return the folders of the logs, oldest first."""
    if not folder.exists():
        raise UserError(f'{folder}: there is no such folder')
    if not folder.is_dir():
        raise UserError(
            f'{folder} is a file: give the work dir of a training or a test, '
            'the folder with its checkpoints and logs'
        )
    logs = [p for p in sorted(folder.iterdir()) if _is_log(p)]
    if logs or (folder / RESULTS_FILE).is_file():
        return logs
    said = (
        f'{folder} is no work dir: it has no {RESULTS_FILE}, and no folder of '
        'a log with vis_data/scalars.json'
    )
    if _is_log(folder):
        said += f'; it is the log folder of one run: give {folder.parent}'
    within = sorted(
        p
        for pattern in ('*', '*/*')
        for p in folder.glob(pattern)
        if p.is_dir() and any(map(_is_log, p.iterdir()))
    )
    if within and not _is_log(folder):
        shown = ' '.join(map(str, within[:4]))
        more = ' ...' if len(within) > 4 else ''
        said += f'; there are work dirs below it: {shown}{more}'
    raise UserError(said)


def _is_log(path):
    return (path / 'vis_data').is_dir() and any(
        (path / name).exists()
        for name in (
            'vis_data/scalars.json',
            'vis_data/config.py',
            RESULTS_FILE,
        )
    )


def _record(run, path):
    """List a file that was read, with its hash."""
    shown = os.path.relpath(path, run.folder)
    run.files.append((shown, path.stat().st_size, sha256_of(path)))


def _read_object(run, path, what):
    value = read_json(path, what)
    if not isinstance(value, dict):
        raise UserError(
            f'{what} {path} holds a {type(value).__name__} where an object '
            '{...} is expected: it was not written by this package'
        )
    _record(run, path)
    return value


def _read_results(run, path):
    """Read a ``results.json`` and check what the report relies on."""
    results = _read_object(run, path, 'the results')
    domains = results.get('domains', {})
    wrong = None
    if not isinstance(results.get('metrics'), dict):
        wrong = '"metrics" is missing'
    elif not isinstance(domains, dict):
        wrong = '"domains" is no object'
    elif domains and not isinstance(results.get('classes'), list):
        wrong = '"classes" is missing'
    else:
        size = len(results.get('classes', ()))
        for name, report in domains.items():
            wrong = wrong or _wrong_domain(name, report, size)
    if wrong:
        raise UserError(
            f'the results {path}: {wrong}; it was not written by ResultsHook '
            'of this package, or was edited'
        )
    return results


def _wrong_domain(name, report, size):
    if not isinstance(report, dict) or not isinstance(
        report.get('metrics'), dict
    ):
        return f'domain {name!r} has no "metrics"'
    values = [*report['metrics'].values()]
    values += (report.get('class_iou') or {}).values()
    if any(v is not None and not isinstance(v, (int, float)) for v in values):
        return f'domain {name!r} has a value that is no number'
    matrix = report.get('confusion')
    if matrix is None:
        return None
    # A single class has a second row, of the background.
    if len(matrix) not in (size, size + 1) or any(
        not isinstance(row, list) or len(row) != len(matrix) for row in matrix
    ):
        return f'the confusion matrix of {name!r} is not {size}x{size}'
    return None


def _read_teacher(run, path):
    found = _read_object(run, path, 'the pseudo-label measurements')
    try:
        return {int(k): dict(v) for k, v in found.items()}
    except (TypeError, ValueError) as error:
        raise UserError(
            f'{path} is no list of measurements by iteration: {error}'
        ) from error


def _add_scalars(run, path):
    """Add the values of a log folder; those that it repeats are replaced.

    A run that was killed and resumed logs some iterations twice: what counts
    is what the resumed run did.
    """
    if not path.is_file():
        return
    entries = _scalar_entries(run, path)
    found: dict[str, Curve] = {}
    for entry in entries:
        step = entry.get('step')
        if not isinstance(step, int):
            continue
        for name, value in entry.items():
            if isinstance(value, (int, float)) and name not in (
                'step',
                'iter',
            ):
                found.setdefault(name, {})[step] = float(value)
    if not found:
        return
    begin = min(min(curve) for curve in found.values())
    for name, curve in run.curves.items():
        first = min(found.get(name, {begin + 1: 0.0}))
        limit = min(first, begin + 1)
        run.curves[name] = {s: v for s, v in curve.items() if s < limit}
    for name, curve in found.items():
        run.curves.setdefault(name, {}).update(curve)


def _scalar_entries(run, path):
    lines = read_text(path, 'the log of scalars').split('\n')
    entries = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            entry = parse_json(line)
        except ValueError as error:
            if not any(later.strip() for later in lines[number:]):
                run.notes.append(
                    f'The last line of {path.name} in '
                    f'{path.parent.parent.name} is cut off: the run was '
                    'killed while it wrote it.'
                )
                break
            raise UserError(
                f'line {number} of {path} is no JSON: {error}; only the '
                'last line of a killed run may be cut off'
            ) from error
        if isinstance(entry, dict):
            entries.append(entry)
    _record(run, path)
    return entries


def _add_pseudo_labels(run, folder):
    """Find the drawings of SAMRefineHook, by iteration."""
    for path in sorted(folder.glob('pseudo_label_*.png')):
        match = re.fullmatch(r'pseudo_label_\d+_(\d+)', path.stem)
        if match:
            run.pseudo_labels.setdefault(int(match[1]), []).append(path)


def _read_config(run, logs):
    """Take the config of the newest evaluation, else of the newest log."""
    saved = (run.results or {}).get('config')
    text = saved.get('text') if isinstance(saved, dict) else None
    if not text:
        for log in reversed(logs):
            path = log / 'vis_data' / 'config.py'
            if path.is_file():
                text = read_text(path, 'the config')
                _record(run, path)
                break
    run.config_text = text or ''
    run.config = parse_config_text(text) or {}


def _read_log(run, logs):
    """Read what the run is about from the newest log that says it."""
    for log in reversed(logs):
        for path in sorted(log.glob('*.log')):
            with path.open('rb') as stream:
                text = stream.read(_LOG_HEAD).decode('utf-8', 'replace')
            about = _ABOUT.search(text)
            if about and not run.about:
                for line in about[1].splitlines():
                    # The titles are padded to one width.
                    title, _, rest = line[2:].partition('  ')
                    run.about.append((title, rest.strip()))
            environment = _ENVIRONMENT.search(text)
            if environment and not run.environment:
                lines = environment[1].splitlines()
                run.environment = '\n'.join(
                    line.removeprefix('    ')
                    for line in lines
                    if len(line) <= _LONGEST_LINE
                )
        if run.about:
            break


def _read_images(run):
    """Read the scores of single images, if they are of these results."""
    path = run.folder / IMAGES_FILE
    if run.results is None:
        return
    if not path.is_file():
        # Metrics without domains score no single image.
        if run.results.get('domains'):
            run.notes.append(
                f'There is no {IMAGES_FILE}, which versions before this one '
                'did not write: its worst images are not known. clouds test '
                'CONFIG CHECKPOINT with the same --work-dir writes it.'
            )
        return
    found = _read_object(run, path, 'the scores of images')
    records = found.get('images')
    if not isinstance(records, list) or not all(
        isinstance(r, dict) and isinstance(r.get('domain'), str)
        for r in records
    ):
        raise UserError(
            f'{path} has no list "images" of objects with a domain'
        )
    if found.get('date') != run.results.get('date'):
        run.notes.append(
            f'{IMAGES_FILE} is of another evaluation than {RESULTS_FILE} and '
            'is left out.'
        )
        return
    run.images = records


def _find_panels(run, logs):
    """Find the drawings of the evaluation that ``results`` is about."""
    if run.results is None:
        return
    date = run.results.get('date')
    names = [
        log for log, results in run.evaluations if results.get('date') == date
    ]
    if not names:
        return
    root = run.folder / names[-1] / 'pictures'
    iteration = run.results.get('iteration')
    wanted = ['test'] if run.results.get('phase') == 'test' else []
    wanted += [f'iter_{iteration}', 'val']
    for folder in (root / name for name in wanted):
        if folder.is_dir():
            for path in sorted(folder.rglob('*.png')):
                domain, *rest = path.relative_to(folder).parts
                # overview.png lies above the domains.
                if rest and not path.name.startswith('.'):
                    name = Path(*rest).with_suffix('').as_posix()
                    run.panels.setdefault(domain, {})[name] = path
            break
    order = [*(run.results.get('domains') or {})]
    order += [domain for domain in run.panels if domain not in order]
    run.panels = {d: run.panels[d] for d in order if d in run.panels}


def _find_state(run):
    """Find how many iterations were done, and how many were to be."""
    train = run.config.get('train_cfg')
    if isinstance(train, dict) and isinstance(train.get('max_iters'), int):
        run.planned = train['max_iters']
    done = [
        step
        for name, curve in run.curves.items()
        if name in ('loss', 'lr')
        for step in curve
    ]
    for _, results in run.evaluations:
        if isinstance(results.get('iteration'), int):
            done.append(results['iteration'])
    for path in run.folder.glob('iter_*.pth'):
        if path.stem.removeprefix('iter_').isdecimal():
            done.append(int(path.stem.removeprefix('iter_')))
    run.trained = max(done, default=None)


def _take_notes(run):
    if run.is_unfinished:
        run.notes.append(
            f'Unfinished: {run.trained} of {run.planned} iterations are done.'
        )
    elif run.results is None and run.trained is None:
        run.notes.append('Nothing was trained or evaluated yet.')
    if run.results is None:
        run.notes.append('It was not evaluated: there are no results yet.')
        return
    iteration = run.results.get('iteration')
    if (
        isinstance(iteration, int)
        and run.trained is not None
        and iteration < run.trained
    ):
        run.notes.append(
            f'The results are of iteration {iteration}, {run.trained} were '
            'trained.'
        )
    for change in run.results.get('resumed_with_changes') or ():
        run.notes.append(f'Resumed with a change: {change}')
    run.notes += map(str, run.results.get('warnings') or ())


def number(value: Any) -> float | None:
    """Return a finite number as float; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return float(value) if math.isfinite(value) else None
