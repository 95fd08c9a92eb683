"""Prepare a data set: find its files, decide, and put them in place."""

import logging
import os
import shutil
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from mmengine.logging import print_log
from tqdm import tqdm

from clouds_mmseg.datasets.errors import DataError
from clouds_mmseg.datasets.prepare.discover import WORK_FOLDER, find_sources
from clouds_mmseg.datasets.prepare.disk import write_error
from clouds_mmseg.datasets.prepare.files import Files
from clouds_mmseg.datasets.prepare.manifest import (
    MANIFEST,
    Manifest,
    read_manifest,
    write_manifest,
)
from clouds_mmseg.datasets.prepare.place import BAD, MADE, Placer
from clouds_mmseg.datasets.prepare.plan import make_plan
from clouds_mmseg.datasets.prepare.sets import find_layout
from clouds_mmseg.utils.processes import map_in_processes

_NAMED = 20


@dataclass(frozen=True, kw_only=True)
class Options:
    """How a set is prepared.

    Attributes:
        link (bool): Link files of folders instead of copying them.
        resize_short (int, optional): Short edge of a smaller copy.
        label_version (str, optional): ``1.2`` or ``2.0`` of Mapillary
            Vistas.
        skip_bad (bool): Leave out images that cannot be used.
        workers (int, optional): Processes; the number of cores by default.

    Raises:
        DataError: ``resize_short`` is not positive.
    """

    link: bool = True
    resize_short: int | None = None
    label_version: str | None = None
    skip_bad: bool = False
    workers: int | None = None

    def __post_init__(self):
        if self.resize_short is not None and self.resize_short < 1:
            raise DataError(
                f'--resize-short {self.resize_short} must be at least 1 pixel'
            )


@dataclass(frozen=True)
class Result:
    """What :func:`prepare_dataset` has done.

    Attributes:
        manifest (Manifest): Of the prepared folder.
        made (int): Files made by this run.
        there (int): Files that were there.
    """

    manifest: Manifest
    made: int
    there: int


def prepare_dataset(name, src, out, options=None):
    """Make the folder that a dataset class reads from official downloads.

    Nothing below ``src`` is changed. Every file is whole or not there; a run
    that was stopped is continued by the same call.

    Args:
        name (str): One of :data:`clouds_mmseg.datasets.prepare.sets.NAMES`.
        src (Sequence[str | Path]): Archives and folders.
        out (str | Path): The prepared folder; it may be one of ``src``.
        options (Options, optional): How.

    Returns:
        Result: With the manifest that was written.

    Raises:
        DataError: See the message; files that could be made are there.
    """
    options = options or Options()
    src = [src] if isinstance(src, (str, os.PathLike)) else src
    layout = find_layout(name)
    before = _check_out(out, name, options)
    found = find_sources(src, out)
    rules = layout.rules
    if layout.prepare:
        rules = layout.prepare(Files(found), options)
    plan = make_plan(layout, rules, found)
    _check_same_labels(out, before, plan)
    if plan.unpaired and not options.skip_bad:
        raise _bad_files(plan.unpaired, 0)
    manifest = Manifest(
        name=name,
        splits=plan.splits,
        resize_short=options.resize_short,
        label_source=plan.label_source,
        left_out=plan.left_out,
        complete=False,
    )
    _check_space(out, plan, found, options)
    _write(out, manifest)
    bad, states, manifest.link = _place_all(out, plan, found, options, layout)
    if bad and not options.skip_bad:
        raise _bad_files(
            [*plan.unpaired, *(message for _, message in bad)],
            states[MADE],
        )
    if bad:
        _leave_out(out, plan, found, bad, manifest)
    manifest.complete = True
    _write(out, manifest)
    shutil.rmtree(Path(out) / WORK_FOLDER, ignore_errors=True)
    for message in [*plan.unpaired, *(message for _, message in bad)]:
        _warn(f'left out: {message}')
    _compare_counts(layout, manifest)
    return Result(manifest, states[MADE], states.total() - states[MADE])


def _check_out(out, name, options):
    """Refuse a folder that was prepared otherwise."""
    before = read_manifest(out)
    if before is None:
        return None
    for what, was, now in (
        ('set', before.name, name),
        ('--resize-short', before.resize_short, options.resize_short),
    ):
        if was != now:
            raise DataError(
                f'{out} was prepared with {what} {was}, now it is {now}. '
                'Give another folder as --out, or delete this one.'
            )
    return before


def _check_same_labels(out, before, plan):
    if before and before.label_source != plan.label_source:
        raise DataError(
            f'the labels in {out} were made from {before.label_source}, now '
            f'they would be from {plan.label_source}. Give another folder as '
            '--out, or delete this one.'
        )


def _check_space(out, plan, found, options):
    """Compare what archives hold with the room on the disk."""
    if options.resize_short:
        return
    need = sum(
        job.member.size
        for job in plan.jobs
        if _is_written(found[job.source][0], options)
        and not os.path.lexists(os.path.join(out, job.target))
    )
    folder = Path(out).absolute()
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if need > free:
        raise DataError(
            f'{out} needs about {need / 1e9:.1f} GB, but only '
            f'{free / 1e9:.1f} GB are free there. Make room, or give another '
            'folder as --out.'
        )


def _is_written(source, options):
    return not source.owned and not (source.is_folder and options.link)


def _write(out, manifest):
    try:
        write_manifest(out, manifest)
    except OSError as error:
        raise write_error(out, Path(out) / MANIFEST, error) from error


def _place_all(out, plan, found, options, layout):
    """Do all jobs; return the bad ones, counts of states, any link."""
    sources = tuple(source for source, _ in found)
    placer = Placer(str(out), sources, options.link, options.resize_short)
    plain = [j for j in plan.jobs if not sources[j.source].streamed]
    bad, states, linked = [], Counter(), False
    results = plain and [
        zip(
            plain,
            map_in_processes(
                placer,
                plain,
                workers=options.workers,
                title=layout.name,
                unit='file',
            ),
            strict=True,
        )
    ]
    for number, source in enumerate(sources):
        jobs = [j for j in plan.jobs if j.source == number]
        if source.streamed and jobs:
            results.append(_stream(placer, source, jobs))
    for part in results:
        for job, done in part:
            states[done.state] += 1
            linked = linked or done.linked
            if done.state == BAD:
                bad.append((job, done.message))
    return bad, states, linked


def _stream(placer, source, jobs):
    """Do the jobs of an archive that is read from its beginning."""
    todo = {job.member.place: job for job in jobs}
    with tqdm(total=len(jobs), unit='file', disable=None) as bar:
        for place, payload in source.stream(todo):
            yield todo[place], placer(todo[place], payload)
            bar.update()


def _leave_out(out, plan, found, bad, manifest):
    """Remove the partners of bad files, which this tool has made."""
    keys = {job.key for job, _ in bad}
    for job in plan.jobs:
        if job.key not in keys:
            continue
        target, source = Path(out) / job.target, found[job.source][0]
        published = (
            source.is_folder
            and target.exists()
            and target.samefile(job.member.place)
            and not target.is_symlink()
        )
        # Prepared in place, an image is the published one: it stays, and the
        # dataset classes skip what the manifest names.
        if not published:
            target.unlink(missing_ok=True)
        if job.part == 'image':
            manifest.splits[job.split] -= 1
            manifest.left_out.append(job.target)
    manifest.left_out.sort()


def _bad_files(messages, made):
    lines = [f'{len(messages)} files cannot be used:']
    lines += [f'  {message}' for message in messages[:_NAMED]]
    if len(messages) > _NAMED:
        lines.append(f'  and {len(messages) - _NAMED} more')
    if made:
        lines.append(f'{made} other files were made.')
    lines.append(
        'Download or unpack the named ones again and run the same command, '
        'or give --skip-bad to leave out these images.'
    )
    return DataError('\n'.join(lines))


def _compare_counts(layout, manifest):
    for split, count in manifest.splits.items():
        official = layout.official.get(split)
        if official and count != official:
            _warn(
                f'{split}: {count} images, the official release has {official}'
            )


def _warn(message):
    print_log(message, logger='current', level=logging.WARNING)
