"""What is checked before and after files are made."""

import logging
import os
import re
import shutil
from collections import Counter
from pathlib import Path

from mmengine.logging import print_log

from clouds_mmseg.datasets.errors import DataError
from clouds_mmseg.datasets.prepare.archives import READ_ERRORS
from clouds_mmseg.datasets.prepare.discover import WORK_FOLDER
from clouds_mmseg.datasets.prepare.manifest import read_manifest
from clouds_mmseg.datasets.prepare.recode import decode_image, encode_exactly
from clouds_mmseg.datasets.skip_list import QUARANTINE

_NAMED = 20


def check_out(out, name, options):
    """Refuse a folder that was prepared otherwise.

    Args:
        out (str | Path): The output folder.
        name (str): The set.
        options (Options): As asked for now.

    Returns:
        Manifest | None: What the folder holds.

    Raises:
        DataError: It was made otherwise.
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


def check_same_labels(out, before, plan):
    """Refuse a folder whose labels were made from something else.

    Args:
        out (str | Path): The output folder.
        before (Manifest | None): What it holds.
        plan (Plan): What is about to be made.

    Raises:
        DataError: They do not fit.
    """
    if before and before.label_source != plan.label_source:
        raise DataError(
            f'the labels in {out} were made from {before.label_source}, now '
            f'they would be from {plan.label_source}. Give another folder as '
            '--out, or delete this one.'
        )


def check_space(out, plan, found, options):
    """Compare what archives hold with the room on the disk.

    Args:
        out (str | Path): The output folder.
        plan (Plan): What is about to be made.
        found (list): Pairs of a source and its members.
        options (Options): As asked for.

    Raises:
        DataError: There is not enough room.
    """
    if options.resize_short:
        return
    growth = _growth(plan, found, options.recode) if options.recode else 0
    need = sum(
        _written_bytes(job, found[job.source][0], options, growth)
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


def _growth(plan, found, kind):
    """Tell how many times as large as published an image becomes."""
    for job in plan.jobs:
        source = found[job.source][0]
        if job.part == 'label' or source.streamed:
            continue
        try:
            payload = source.read(job.member)
            image = decode_image(payload, job.target)
            copy = encode_exactly(image, kind, job.target)
        except (DataError, *READ_ERRORS):
            # It is named when its turn comes.
            continue
        return len(copy) / len(payload)
    return 1.0


def _written_bytes(job, source, options, growth):
    if growth and job.part == 'image':
        return job.member.size * growth
    linked = source.owned or (source.is_folder and options.link)
    return 0 if linked else job.member.size


def bad_files_error(messages, made):
    """Make the error about files that cannot be used.

    Args:
        messages (list[str]): One for each.
        made (int): Files that were made in spite of them.

    Returns:
        DataError: Names the first of them.
    """
    count = len(messages)
    lines = [f'{count} file{"s" * (count > 1)} cannot be used:']
    lines += [f'  {message}' for message in messages[:_NAMED]]
    if len(messages) > _NAMED:
        lines.append(f'  and {len(messages) - _NAMED} more')
    if made:
        lines.append(f'Made: {made} others.')
    lines.append(
        'Download or unpack the named ones again and run the same command, '
        'or give --skip-bad to leave out these images.'
    )
    return DataError('\n'.join(lines))


def count_images(out, layout, rules, left_out):
    """Count the images of a prepared folder, split by split.

    Args:
        out (str | Path): The folder.
        layout (Layout): Of the set.
        rules (Sequence[Rule]): Its rules.
        left_out (Container[str]): Paths below the folder that do not count.

    Returns:
        tuple[dict[str, int], bool]: The counts, and whether files are links.
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
                filter(None, (p.fullmatch(below) for p in patterns)), 0
            )
            if not match or below in left_out:
                continue
            split = match.groupdict().get('split') or layout.split
            # In place there may be splits that are not prepared.
            if split in layout.official:
                counts[split] += 1
                linked = linked or os.path.islink(path)
    return dict(sorted(counts.items())), linked


def compare_counts(layout, manifest):
    """Warn of numbers of images that the official release does not have.

    Args:
        layout (Layout): Of the set.
        manifest (Manifest): Of what was prepared.
    """
    for split, count in manifest.splits.items():
        official = layout.official.get(split)
        if official and count != official:
            warn(
                f'{split}: {count} images, the official release has {official}'
            )


def warn(message):
    """Say something in the log.

    Args:
        message (str): What.
    """
    print_log(message, logger='current', level=logging.WARNING)
