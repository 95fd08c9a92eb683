"""Preparation of a data set: find the source files, plan, write."""

import logging
import os
import re
import shutil
from collections import Counter
from collections.abc import Container, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from mmengine.logging import print_log
from tqdm import tqdm

from clouds_mmseg.data_tools.prepare.archives import (
    READ_ERRORS,
    Member,
    Source,
)
from clouds_mmseg.data_tools.prepare.rules import (
    Rule,
    facts_of,
    recode_rules,
    rules_of,
)
from clouds_mmseg.data_tools.prepare.sources import (
    WORK_FOLDER,
    SourceFiles,
    find_sources,
)
from clouds_mmseg.data_tools.prepare.write import (
    CREATED,
    EXISTS,
    FAILED,
    RECODES,
    FileWriter,
    Job,
    decode_image,
    encode_copy,
    write_error,
)
from clouds_mmseg.datasets.driving import SetFacts
from clouds_mmseg.datasets.files import QUARANTINE
from clouds_mmseg.datasets.prepared import (
    MANIFEST,
    Manifest,
    read_manifest,
    write_manifest,
)
from clouds_mmseg.utils.errors import DataError
from clouds_mmseg.utils.parallel import parallel_map

# Unusable files that the error lists.
_NAMED_FILES = 20


@dataclass(frozen=True, kw_only=True)
class Options:
    """The options of ``tools/prepare_dataset.py``.

    Attributes:
        link: Link files of folders instead of copying them.
        resize_short: Short edge of a smaller copy.
        recode: Format of the copies of the images, one of
            :data:`~clouds_mmseg.data_tools.prepare.write.RECODES`.
        label_version: ``1.2`` or ``2.0`` of Mapillary Vistas.
        skip_bad: Leave out images that cannot be used.
        workers: Processes; the number of cores by default.

    Raises:
        DataError: ``resize_short`` is not positive, or ``recode`` unknown.
    """

    link: bool = True
    resize_short: int | None = None
    recode: str | None = None
    label_version: str | None = None
    skip_bad: bool = False
    workers: int | None = None

    def __post_init__(self) -> None:
        if self.resize_short is not None and self.resize_short < 1:
            raise DataError(
                f'--resize-short {self.resize_short} must be at least 1 pixel'
            )
        if self.recode is not None and self.recode not in RECODES:
            raise DataError(
                f'--recode {self.recode}: known are {", ".join(RECODES)}'
            )


@dataclass(frozen=True)
class Result:
    """Result of :func:`prepare_dataset`.

    Attributes:
        manifest: Of the prepared folder.
        created: Files written by this run.
        existing: Files that an earlier run has written.
    """

    manifest: Manifest
    created: int
    existing: int


@dataclass(kw_only=True)
class Plan:
    """The files to write, and what is wrong with the sources.

    Attributes:
        jobs: Sorted by source and position in it.
        splits: Split -> number of images.
        label_source: What the labels are made from.
        unpaired: Messages about images without label and labels without image;
            neither is in ``jobs``.
        left_out: Targets of the images without label.
    """

    jobs: list[Job]
    splits: dict[str, int]
    label_source: str
    unpaired: list[str]
    left_out: list[str]


def prepare_dataset(
    name: str,
    src: Sequence[str | Path],
    out: str | Path,
    options: Options | None = None,
) -> Result:
    """Make the folder that a dataset class reads from official downloads.

    Nothing below ``src`` is changed. Files are written atomically, and the
    same call continues a run that was interrupted.

    Args:
        name: A key of :data:`clouds_mmseg.datasets.driving.SETS`.
        src: Archives and folders.
        out: The prepared folder; it may be one of ``src``.
        options: Defaults to ``Options()``.

    Returns:
        The manifest and the numbers of files.

    Raises:
        DataError: Sources, output folder or options do not fit, or files
            cannot be used. Files that could be written are kept.
    """
    options = options or Options()
    src = [src] if isinstance(src, (str, os.PathLike)) else src
    facts = facts_of(name)
    before = check_out(out, name, options)
    found = find_sources(src, out)
    rules = rules_of(facts, SourceFiles(found), options.label_version)
    rules = recode_rules(rules, options.recode)
    plan = make_plan(facts, rules, found)
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
    if not (before and before.complete and _all_exist(out, plan)):
        _save_manifest(out, manifest)
    bad, states = _write_all(out, plan, found, options, facts)
    if bad and not options.skip_bad:
        raise bad_files_error(
            [*plan.unpaired, *(message for _, message in bad)],
            states[CREATED],
        )
    left_out = {*plan.left_out, *_leave_out(out, plan, found, bad)}
    if before:
        # A set may be prepared part by part.
        planned = {job.target for job in plan.jobs}
        left_out.update(set(before.left_out) - planned)
    splits, linked = count_images(out, facts, rules, left_out)
    manifest = replace(
        manifest,
        splits=splits,
        link=linked,
        left_out=sorted(left_out),
        complete=True,
    )
    _save_manifest(out, manifest)
    shutil.rmtree(Path(out) / WORK_FOLDER, ignore_errors=True)
    for message in [*plan.unpaired, *(message for _, message in bad)]:
        warn(f'left out: {message}')
    compare_counts(facts, manifest)
    return Result(manifest, states[CREATED], states[EXISTS])


def make_plan(
    facts: SetFacts,
    rules: Sequence[Rule],
    found: list[tuple[Source, list[Member]]],
) -> Plan:
    """Decide which source file becomes which file of the output.

    Args:
        facts: The set.
        rules: Its rules, in the order of preference.
        found: Each source with its members.

    Raises:
        DataError: There is no image or no label of the set, or two different
            files would become the same.
    """
    images, labels = {}, {}
    for number, (_, members) in enumerate(found):
        for member in members:
            for rank, rule in enumerate(rules):
                match = rule.pattern.fullmatch(member.name)
                if match is None:
                    continue
                job = _job(facts, rule, match, number, member)
                table = images if rule.part == 'image' else labels
                _add_preferred(table, rank, job, found)
                break
    images = {key: job for key, (_, job) in images.items()}
    labels = {key: job for key, (_, job) in labels.items()}
    if not images or not labels:
        raise _nothing_found(facts, bool(images), found)
    return _pair_jobs(facts, images, labels, found)


def _job(facts, rule, match, number, member):
    groups = match.groupdict()
    convert = rule.convert
    if hasattr(convert, 'for_file'):
        convert = convert.for_file(groups['file'])
    return Job(
        part=rule.part,
        key=tuple(sorted(groups.items())),
        split=groups.get('split') or facts.only_split,
        target=rule.target.format(**groups),
        source=number,
        member=member,
        convert=convert,
        label_source=rule.source,
    )


def _add_preferred(table, rank, job, found):
    """Keep the job of the preferred rule, of equal ones the first."""
    other = table.get(job.key)
    if other is None or rank < other[0]:
        table[job.key] = (rank, job)
    elif rank == other[0] and job.member.size != other[1].member.size:
        paths = [
            found[j.source][0].describe(j.member) for j in (other[1], job)
        ]
        raise DataError(
            f'two different files would become {job.target}:\n'
            f'  {paths[0]} ({other[1].member.size} bytes)\n'
            f'  {paths[1]} ({job.member.size} bytes)\n'
            'One of them may be unpacked incompletely: delete it, or give '
            'only one of the two as --src.'
        )


def _pair_jobs(facts, images, labels, found):
    unpaired, left_out, jobs = [], [], []
    splits = Counter()
    for key, image in images.items():
        label = labels.get(key)
        if label is None and image.split not in facts.unlabelled:
            if not facts.labelled_only:
                where = found[image.source][0].describe(image.member)
                unpaired.append(f'{where}: there is no label for this image')
                left_out.append(image.target)
            continue
        splits[image.split] += 1
        jobs.append(image)
        if label is not None:
            jobs.append(label)
    for key, label in labels.items():
        if key not in images:
            where = found[label.source][0].describe(label.member)
            unpaired.append(f'{where}: there is no image for this label')
    # As stored: offsets in a tar archive are numbers, names elsewhere are not.
    jobs.sort(key=lambda job: (job.source, job.member.location))
    sources = sorted({j.label_source for j in jobs if j.part == 'label'})
    return Plan(
        jobs=jobs,
        splits=dict(sorted(splits.items())),
        label_source=', '.join(sources),
        unpaired=unpaired,
        left_out=left_out,
    )


def _nothing_found(facts, has_images, found):
    part = 'labels' if has_images else 'images'
    lines = [f'no {part} of {facts.title} in']
    for source, members in found:
        lines.append(f'  {source.title} (files: {len(members)})')
        lines += [f'    {m.name}' for m in members[:3]]
    lines.append('Expected files such as')
    lines += [f'  {example}' for example in facts.examples]
    lines.append(
        'at any depth. Give all archives of the set, or the folder that '
        'holds them, as --src; docs/datasets.md names them.'
    )
    return DataError('\n'.join(lines))


def check_out(out: str | Path, name: str, options: Options) -> Manifest | None:
    """Refuse a folder that was prepared as another set or with other options.

    Args:
        out: The output folder.
        name: The set.
        options: Of this run.

    Returns:
        Its manifest; None if nothing was prepared there.

    Raises:
        DataError: Set, size or image format differ.
    """
    before = read_manifest(out)
    if before is None:
        return None
    for what, was, now in (
        ('set', before.name, name),
        ('--resize-short', before.resize_short, options.resize_short),
        ('--recode', before.recode, options.recode),
    ):
        if was != now:
            raise DataError(
                f'{out} was prepared with {what} {was}, now it is {now}. '
                'Give another folder as --out, or delete this one.'
            )
    return before


def check_same_labels(
    out: str | Path, before: Manifest | None, plan: Plan
) -> None:
    """Refuse a folder whose labels were made from something else.

    Args:
        out: The output folder.
        before: Its manifest.
        plan: Of this run.

    Raises:
        DataError: The label sources differ.
    """
    if before and before.label_source != plan.label_source:
        raise DataError(
            f'the labels in {out} were made from {before.label_source}, now '
            f'they would be from {plan.label_source}. Give another folder as '
            '--out, or delete this one.'
        )


def check_space(
    out: str | Path,
    plan: Plan,
    found: list[tuple[Source, list[Member]]],
    options: Options,
) -> None:
    """Compare the size of the files to write with the free disk space.

    Args:
        out: The output folder.
        plan: Of this run.
        found: Each source with its members.
        options: Of this run.

    Raises:
        DataError: There is not enough space.
    """
    if options.resize_short:
        return
    size_ratio = (
        _size_ratio(plan, found, options.recode) if options.recode else 0
    )
    need = sum(
        _written_bytes(job, found[job.source][0], options, size_ratio)
        for job in plan.jobs
        if not os.path.lexists(os.path.join(out, job.target))
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


def _size_ratio(plan, found, kind):
    """Estimate the size ratio of a recoded to the published image."""
    for job in plan.jobs:
        source = found[job.source][0]
        if job.part == 'label' or source.streamed:
            continue
        try:
            payload = source.read(job.member)
            image = decode_image(payload, job.target)
            copy = encode_copy(image, kind, job.target)
        except (DataError, *READ_ERRORS):
            # Reported when the file is written.
            continue
        return len(copy) / len(payload)
    return 1.0


def _written_bytes(job, source, options, size_ratio):
    if size_ratio and job.part == 'image':
        return job.member.size * size_ratio
    linked = source.owned or (source.is_folder and options.link)
    return 0 if linked else job.member.size


def bad_files_error(messages: list[str], created: int) -> DataError:
    """Make the error about files that cannot be used.

    Args:
        messages: One a file; the first 20 are listed.
        created: Files that were written nevertheless.
    """
    count = len(messages)
    lines = [f'{count} file{"s" * (count > 1)} cannot be used:']
    lines += [f'  {message}' for message in messages[:_NAMED_FILES]]
    if len(messages) > _NAMED_FILES:
        lines.append(f'  and {len(messages) - _NAMED_FILES} more')
    if created:
        lines.append(f'Written: {created} others.')
    lines.append(
        'Download or unpack the named ones again and run the same command, '
        'or give --skip-bad to leave out these images.'
    )
    return DataError('\n'.join(lines))


def _all_exist(out, plan):
    return all(
        os.path.lexists(os.path.join(out, job.target)) for job in plan.jobs
    )


def _save_manifest(out, manifest):
    try:
        write_manifest(out, manifest)
    except OSError as error:
        raise write_error(out, Path(out) / MANIFEST, error) from error


def _write_all(out, plan, found, options, facts):
    """Write all files; return failed jobs with messages, state counts."""
    sources = tuple(source for source, _ in found)
    writer = FileWriter(
        str(out), sources, options.link, options.resize_short, options.recode
    )
    random_access = [j for j in plan.jobs if not sources[j.source].streamed]
    bad, states, results = [], Counter(), []
    if random_access:
        done = parallel_map(
            writer,
            random_access,
            workers=options.workers,
            title=facts.name,
            unit='file',
        )
        results.append(zip(random_access, done, strict=True))
    for number, source in enumerate(sources):
        jobs = [j for j in plan.jobs if j.source == number]
        if source.streamed and jobs:
            results.append(_stream(writer, source, jobs))
    for part in results:
        for job, done in part:
            states[done.state] += 1
            if done.state == FAILED:
                bad.append((job, done.message))
    return bad, states


def _stream(writer, source, jobs):
    """Write the files of an archive that can only be read in order."""
    todo = {job.member.location: job for job in jobs}
    with tqdm(total=len(jobs), unit='file', disable=None) as bar:
        for location, payload in source.stream(todo):
            yield todo[location], writer(todo[location], payload)
            bar.update()


def _leave_out(out, plan, found, bad):
    """Remove the written pairs of failed files; yield the images' targets."""
    keys = {job.key for job, _ in bad}
    for job in plan.jobs:
        if job.key not in keys:
            continue
        target, source = Path(out) / job.target, found[job.source][0]
        published = (
            source.is_folder
            and target.exists()
            and target.samefile(job.member.location)
            and not target.is_symlink()
        )
        # Prepared in place, an image is the published one: it stays, and the
        # dataset classes skip what the manifest names.
        if not published:
            target.unlink(missing_ok=True)
        if job.part == 'image':
            yield job.target


def count_images(
    out: str | Path,
    facts: SetFacts,
    rules: Sequence[Rule],
    left_out: Container[str],
) -> tuple[dict[str, int], bool]:
    """Count the images of a prepared folder, split by split.

    Args:
        out: The folder.
        facts: The set.
        rules: Its rules.
        left_out: Paths below the folder that are not counted.

    Returns:
        Images of each split, and whether any image is a link.
    """
    patterns = {r.target_pattern() for r in rules if r.part == 'image'}
    patterns = [re.compile(pattern) for pattern in patterns]
    counts, linked = Counter(), False
    for folder, folders, files in os.walk(out):
        folders[:] = [f for f in folders if f not in (QUARANTINE, WORK_FOLDER)]
        for name in files:
            path = os.path.join(folder, name)
            below = Path(os.path.relpath(path, out)).as_posix()
            match = next(
                filter(None, (p.fullmatch(below) for p in patterns)), None
            )
            if not match or below in left_out:
                continue
            split = match.groupdict().get('split') or facts.only_split
            # In place there may be splits that are not prepared.
            if split in facts.images:
                counts[split] += 1
                linked = linked or os.path.islink(path)
    return dict(sorted(counts.items())), linked


def compare_counts(facts: SetFacts, manifest: Manifest) -> None:
    """Warn of numbers of images that differ from the official release.

    Args:
        facts: The set.
        manifest: Of the prepared folder.
    """
    for split, count in manifest.splits.items():
        official = facts.images.get(split)
        if official and count != official:
            warn(
                f'{split}: {count} images, the official release has {official}'
            )


def warn(message: str) -> None:
    """Log a warning."""
    print_log(message, logger='current', level=logging.WARNING)
