"""Prepare a data set: find its files, decide, and put them in place."""

import os
import shutil
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

from tqdm import tqdm

from clouds_mmseg.datasets.prepare.checks import (
    bad_files_error,
    check_out,
    check_same_labels,
    check_space,
    compare_counts,
    count_images,
    warn,
)
from clouds_mmseg.datasets.prepare.discover import WORK_FOLDER, find_sources
from clouds_mmseg.datasets.prepare.disk import write_error
from clouds_mmseg.datasets.prepare.files import Files
from clouds_mmseg.datasets.prepare.manifest import (
    MANIFEST,
    Manifest,
    write_manifest,
)
from clouds_mmseg.datasets.prepare.options import Options
from clouds_mmseg.datasets.prepare.place import BAD, MADE, THERE, Placer
from clouds_mmseg.datasets.prepare.plan import make_plan
from clouds_mmseg.datasets.prepare.recode import recode_rules
from clouds_mmseg.datasets.prepare.sets import find_layout
from clouds_mmseg.utils.processes import map_in_processes


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
    before = check_out(out, name, options)
    found = find_sources(src, out)
    rules = layout.rules
    if layout.prepare:
        rules = layout.prepare(Files(found), options)
    rules = recode_rules(rules, options.recode)
    plan = make_plan(layout, rules, found)
    check_same_labels(out, before, plan)
    if plan.unpaired and not options.skip_bad:
        raise bad_files_error(plan.unpaired, 0)
    manifest = Manifest(
        name=name,
        splits=plan.splits,
        resize_short=options.resize_short,
        recode=options.recode,
        label_source=plan.label_source,
        complete=False,
    )
    check_space(out, plan, found, options)
    if not (before and before.complete and _all_there(out, plan)):
        _write(out, manifest)
    bad, states = _place_all(out, plan, found, options, layout)
    if bad and not options.skip_bad:
        raise bad_files_error(
            [*plan.unpaired, *(message for _, message in bad)],
            states[MADE],
        )
    left_out = {*plan.left_out, *_leave_out(out, plan, found, bad)}
    if before:
        # A set may be prepared part by part.
        planned = {job.target for job in plan.jobs}
        left_out.update(set(before.left_out) - planned)
    splits, linked = count_images(out, layout, rules, left_out)
    manifest = replace(
        manifest,
        splits=splits,
        link=linked,
        left_out=sorted(left_out),
        complete=True,
    )
    _write(out, manifest)
    shutil.rmtree(Path(out) / WORK_FOLDER, ignore_errors=True)
    for message in [*plan.unpaired, *(message for _, message in bad)]:
        warn(f'left out: {message}')
    compare_counts(layout, manifest)
    return Result(manifest, states[MADE], states[THERE])


def _all_there(out, plan):
    return all(
        os.path.lexists(os.path.join(out, job.target)) for job in plan.jobs
    )


def _write(out, manifest):
    try:
        write_manifest(out, manifest)
    except OSError as error:
        raise write_error(out, Path(out) / MANIFEST, error) from error


def _place_all(out, plan, found, options, layout):
    """Do all jobs; return the bad ones with messages, counts of states."""
    sources = tuple(source for source, _ in found)
    placer = Placer(
        str(out), sources, options.link, options.resize_short, options.recode
    )
    plain = [j for j in plan.jobs if not sources[j.source].streamed]
    bad, states, results = [], Counter(), []
    if plain:
        done = map_in_processes(
            placer,
            plain,
            workers=options.workers,
            title=layout.name,
            unit='file',
        )
        results.append(zip(plain, done, strict=True))
    for number, source in enumerate(sources):
        jobs = [j for j in plan.jobs if j.source == number]
        if source.streamed and jobs:
            results.append(_stream(placer, source, jobs))
    for part in results:
        for job, done in part:
            states[done.state] += 1
            if done.state == BAD:
                bad.append((job, done.message))
    return bad, states


def _stream(placer, source, jobs):
    """Do the jobs of an archive that is read from its beginning."""
    todo = {job.member.place: job for job in jobs}
    with tqdm(total=len(jobs), unit='file', disable=None) as bar:
        for place, payload in source.stream(todo):
            yield todo[place], placer(todo[place], payload)
            bar.update()


def _leave_out(out, plan, found, bad):
    """Remove the partners of bad files, if made here; yield the images."""
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
            yield job.target
