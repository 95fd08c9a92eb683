"""Verification of data sets: read every file, report, quarantine."""

import logging
import os
import shutil
from collections import Counter
from collections.abc import Iterable
from datetime import datetime
from itertools import chain, groupby

import numpy as np
from mmengine.logging import print_log

from clouds_mmseg.data_tools.verify.label_look import (
    LabelCount,
    label_findings,
)
from clouds_mmseg.data_tools.verify.listing import (
    Task,
    has_report,
    list_files,
    same_files,
)
from clouds_mmseg.data_tools.verify.report import (
    SetReport,
    read_reports,
    write_reports,
)
from clouds_mmseg.datasets.class_statistics import (
    save_statistics,
    statistics_key,
    statistics_row,
)
from clouds_mmseg.datasets.files import QUARANTINE, SKIP_FILE, set_aside
from clouds_mmseg.datasets.sample_check import (
    ACCEPTED,
    FIXED,
    MOVABLE,
    Finding,
    SampleCheck,
    SampleReport,
)
from clouds_mmseg.utils.atomic import atomic_path
from clouds_mmseg.utils.cityscapes import IGNORE
from clouds_mmseg.utils.data_root import report_folder
from clouds_mmseg.utils.errors import DataError, UserError
from clouds_mmseg.utils.hashing import hash_text
from clouds_mmseg.utils.remote import RemoteError, is_address
from clouds_mmseg.utils.shared_work import (
    LEASE_SECONDS,
    SharedWork,
    split,
)

# Bad pairs are moved up to this share of the images, or up to this number;
# more have another cause than damage to single files.
_MAX_SHARE = 0.1
_ALWAYS_ALLOWED = 10


def verify(
    tasks: list[Task],
    *,
    workers: int | None = None,
    command: str = '',
    shared: bool = False,
    lease: float = LEASE_SECONDS,
) -> list[SetReport]:
    """Read every file of some datasets and store the reports.

    The reports are written beside the data (``clouds_verify.json``), on a
    disk or in a store, and so are the class statistics that rare-class
    sampling reads. Findings that were accepted before stay accepted.

    Args:
        tasks: The datasets. Of several with the same files the first is read.
        workers: Processes. Defaults to the number of cores, or one if the
            work is shared.
        command: The command that is run, for messages.
        shared: Whether any number of processes that are started so, on any
            machines, take parts of the work until it is done.
        lease: See :class:`~clouds_mmseg.utils.shared_work.SharedWork`.

    Returns:
        One report a dataset.

    Raises:
        UserError: ``workers`` is not positive, or an earlier report is
            damaged.
    """
    first = {}
    for task in tasks:
        first.setdefault(same_files(task.dataset), task)
    tasks = list(first.values())
    # Read first: a damaged report must not be found after hours.
    earlier = {root: read_reports(root) for root in _roots(tasks)}
    sets = [_Set(task) for task in tasks]
    if shared:
        return _verify_shared(sets, earlier, workers or 1, command, lease)
    for one in sets:
        if one.pairs:
            one.collect(
                one.check.check_all(
                    one.pairs, workers=workers, title=one.report.name
                )
            )
    return _complete(sets, earlier, command)


def _complete(sets, earlier, command):
    """Compare the sets with one another and store their reports."""
    reports = [one.report for one in sets]
    find_duplicates(reports)
    for report in reports:
        report.command = command
        _remember_accepted(report, earlier.get(report.root, {}))
    keep(reports)
    return reports


def _verify_shared(sets, earlier, workers, command, lease):
    """Read files until all are read; one process stores the reports."""
    items = [
        (number, pair) for number, one in enumerate(sets) for pair in one.pairs
    ]
    roots = [one.report.root for one in sets if one.pairs]
    if not roots:
        return _complete(sets, earlier, command)
    chunks = split(len(items))
    # Listed once, and not for each chunk.
    stamps = [
        one.check.stored_stamps(one.pairs) if one.pairs else {} for one in sets
    ]
    job = SharedWork(
        report_folder(roots[0]),
        'verify',
        dict(
            sets=[one.report.name for one in sets],
            files=hash_text(*items),
            command=command,
        ),
        chunks=len(chunks),
        lease=lease,
    )

    def work(chunk):
        found = []
        own = [items[i] for i in chunks[chunk.number]]
        for number, pairs in groupby(own, lambda item: item[0]):
            samples = sets[number].check.check_all(
                [pair for _, pair in pairs],
                workers=workers,
                title=sets[number].report.name,
                stamps=stamps[number],
            )
            found += [(number, sample.to_json()) for sample in samples]
        return found

    def finish(results):
        samples = [[] for _ in sets]
        for number, sample in chain.from_iterable(results):
            samples[number].append(SampleReport.from_json(sample))
        for one, own in zip(sets, samples, strict=True):
            one.collect(own)
        return [
            (report.to_json(), report.root, report.key, report.kept_at)
            for report in _complete(sets, earlier, command)
        ]

    share = job.run(work, finish)
    print_log(str(share), logger='current')
    return [SetReport.from_json(*report) for report in share.result]


def keep(reports: list[SetReport]) -> bool:
    """Write reports beside their data; log a warning where that fails.

    Args:
        reports: Of any roots.

    Returns:
        Whether every report with a key was written.
    """
    written = True
    for root in dict.fromkeys(report.root for report in reports):
        selected = [r for r in reports if r.root == root and r.key]
        try:
            if selected:
                write_reports(root, selected)
        except DataError as error:
            written = False
            print_log(str(error), logger='current', level=logging.WARNING)
    return written


def _roots(tasks):
    return {t.dataset.files_root for t in tasks if has_report(t.dataset)}


def _remember_accepted(report, earlier):
    if report.key not in earlier:
        return
    known = earlier[report.key].findings
    accepted = {f.identity for f in known if f.state == ACCEPTED}
    for finding in report.findings:
        if finding.identity in accepted:
            finding.state = ACCEPTED


def find_duplicates(reports: list[SetReport]) -> None:
    """Add findings about identical image files.

    A training image that an evaluation set has as another file is an error:
    the evaluation would be contaminated. Other duplicates are warnings. A file
    that belongs to two sets counts as one image.

    Args:
        reports: With ``digests``; the findings are added to them.
    """
    by_digest = {}
    for report in reports:
        for image, (digest, label) in report.digests.items():
            found = by_digest.setdefault(digest, {})
            path = os.path.realpath(os.path.join(report.root, image))
            found.setdefault(path, (report, image, label))
    for same in by_digest.values():
        if len(same) > 1:
            _add_duplicate_findings(list(same.values()))


def _add_duplicate_findings(same):
    for index, (report, image, label) in enumerate(same):
        leaks = [o for o in same if report.training and not o[0].training]
        earlier = [o for o in same[:index] if o[0].training == report.training]
        if not leaks and not earlier:
            continue
        kind = 'leak' if leaks else 'duplicate'
        other, twin, _ = (leaks or earlier)[0]
        where = '' if other is report else f' of {other.name}'
        text = f'image {image} is the same as {twin}{where}.'
        report.findings.append(Finding(kind, text, image, label))


class _Set:
    """A dataset that is verified: its files, and the report about them."""

    def __init__(self, task):
        self.task = task
        dataset = task.dataset
        self.pairs = []
        self.report = report = SetReport(
            task.name,
            training=task.training,
            expected=getattr(dataset, 'expected', None),
            classes=list((dataset.metainfo or {}).get('classes') or []),
            when=datetime.now().astimezone().isoformat(timespec='seconds'),
        )
        try:
            listing = list_files(dataset)
        except UserError as error:
            report.findings.append(Finding('layout', str(error)))
            return
        self.pairs = listing.pairs
        report.root, report.key = listing.root, listing.key
        report.set_aside = listing.set_aside
        report.findings += listing.findings
        _check_count(report, listing, dataset)
        labelled = has_report(dataset)
        self.check = SampleCheck(
            listing.root,
            dataset.class_table() if labelled else None,
            dataset.LABEL_CHANNEL if labelled else None,
            image_range=getattr(dataset, 'image_range', None),
        )

    def collect(self, samples):
        """Add what was found in the files, in their order."""
        report, dataset = self.report, self.task.dataset
        rows = _collect(report, samples)
        if not rows:
            return
        if any(report.pixels):
            report.findings += _label_findings(
                report, dataset, self.task.training
            )
        _keep_statistics(dataset, report.root, rows)


def _check_count(report, listing, dataset):
    total = listing.found + listing.set_aside
    if report.expected is None or total == report.expected:
        return
    folder = os.path.relpath(dataset.data_prefix['img_path'], listing.root)
    moved = (
        f' and {listing.set_aside} were left out' if listing.set_aside else ''
    )
    report.findings.append(
        Finding(
            'count',
            f'{folder} holds {listing.found} images{moved}; there should be '
            f'{report.expected}.',
        )
    )


def _collect(report, samples):
    """Accumulate the samples; return the rows of class statistics."""
    pixels = np.zeros(256, np.int64)
    images_with = np.zeros(256, np.int64)
    sizes, rows, maxima = Counter(), {}, []
    for sample in samples:
        report.images += 1
        report.findings += sample.findings
        report.stamps.update(
            {p: s for p, s in sample.stamps.items() if s is not None}
        )
        if sample.digest:
            pair = sample.pair
            report.digests[pair.image] = (sample.digest, pair.label)
        if sample.size:
            sizes['{}x{}'.format(*sample.size)] += 1
        if sample.maximum is not None:
            maxima.append(sample.maximum)
        if sample.pixels is not None:
            pixels += sample.pixels
            images_with += sample.pixels > 0
            rows[sample.pair.label] = statistics_row(sample)
    if maxima and max(maxima) < 2**15:
        report.findings.append(
            Finding(
                'depth',
                f'{len(maxima)} images have 16 bits, but no value above '
                f'{max(maxima)}, and are read that dark: give the dataset '
                'their range, such as image_range=(0, 4095) for 12 bits, or '
                'image_range=(0, 65535) if they are meant so.',
            )
        )
    number = len(report.classes)
    report.sizes = dict(sizes.most_common())
    report.pixels = pixels[:number].tolist() if rows else []
    report.images_with = images_with[:number].tolist() if rows else []
    report.ignored = int(pixels[IGNORE])
    if rows and not pixels[:number].any():
        report.findings.append(
            Finding('ignored', 'no label has a pixel of any class.')
        )
    return rows


def _label_findings(report, dataset, training):
    count = LabelCount.of_classes(
        report.pixels, report.ignored, labels=report.images
    )
    return label_findings(dataset, count, training)


def _keep_statistics(dataset, root, rows):
    try:
        save_statistics(
            root, statistics_key(dataset), dataset.metainfo['classes'], rows
        )
    except (OSError, RemoteError) as error:
        print_log(
            f'the class statistics in {root} cannot be written: '
            f'{error.strerror}',
            logger='current',
            level=logging.WARNING,
        )


def accept(reports: list[SetReport]) -> int:
    """Accept open errors, so that training uses the data nevertheless.

    Args:
        reports: Their open errors are marked as accepted, except those about
            missing data (kind ``layout``).

    Returns:
        Number of errors accepted by this call.
    """
    mine = [
        finding
        for report in reports
        for finding in report.open_errors
        if finding.kind != 'layout'
    ]
    for finding in mine:
        finding.state = ACCEPTED
    return len(mine)


def fix(reports: list[SetReport]) -> list[str]:
    """Move bad files to the quarantine folder, where no dataset reads them.

    A pair is moved to ``quarantine/`` below the root, under its old path, and
    added to the list that dataset classes skip. A label without image is added
    to the list and stays in place: nothing reads it, and it may belong to
    another dataset.

    Args:
        reports: Their findings are marked as fixed.

    Returns:
        Former paths of the files that were moved.

    Raises:
        DataError: Too much of a dataset is bad, a file cannot be moved, or the
            data lies in a store.
    """
    refuse_stores(report.root for report in reports)
    for report in reports:
        _refuse_too_many(report)
    moved = []
    for report in reports:
        if not report.key:
            continue
        mine = [
            finding
            for finding in report.open_errors
            if finding.kind in (*MOVABLE, 'orphan')
        ]
        try:
            moved += _fix_one(report, mine)
        except OSError as error:
            raise DataError(
                f'{error.filename or report.root} cannot be moved below '
                f'{os.path.join(report.root, QUARANTINE)}: '
                f'{error.strerror}.',
                'Fix the data as a user who may write there.',
            ) from error
        for finding in mine:
            finding.state = FIXED
    return moved


def refuse_stores(roots: Iterable[str]) -> None:
    """Refuse to move files of a store.

    Args:
        roots: ``files_root`` of the datasets.

    Raises:
        DataError: One of them is an address.
    """
    for root in filter(is_address, roots):
        raise DataError(
            f'{root} is in a store, where --fix moves no files.',
            f'Replace the bad files there, or list them in {SKIP_FILE} below '
            'that address, an image or label a line by its path, and verify '
            'again; --accept lets training use them as they are.',
        )


def _refuse_too_many(report):
    bad = {
        f.image for f in report.open_errors if f.kind in MOVABLE and f.image
    }
    total = report.images + sum(f.kind == 'no_label' for f in report.errors)
    if (
        len(bad) <= max(_ALWAYS_ALLOWED, _MAX_SHARE * total)
        and len(bad) < total
    ):
        return
    if bad:
        raise DataError(
            f'{report.name}: {len(bad)} of {total} images below '
            f'{report.root} are bad. That is no damage to a few files, and '
            '--fix would move the data set away.',
            'Look for the cause: other label files than the layout asks for, '
            'an archive that was not unpacked to its end. --accept trains on '
            'what there is.',
        )


def _fix_one(report, findings):
    pairs = [
        path
        for finding in findings
        for path in (finding.image, finding.label)
        if path
    ]
    if not pairs:
        return []
    # The list first: if moving fails, these files are skipped all the same.
    _add_to_skip_list(report.root, pairs)
    orphans = {f.label for f in findings if f.kind == 'orphan'}
    moved = []
    for path in dict.fromkeys(pairs):
        whole = os.path.join(report.root, path)
        if path not in orphans and os.path.lexists(whole):
            _move(whole, os.path.join(report.root, QUARANTINE, path))
            moved.append(whole)
        report.stamps.pop(path, None)
    return moved


def _add_to_skip_list(root, paths):
    names = sorted(set_aside(root) | set(paths))
    with atomic_path(os.path.join(root, SKIP_FILE)) as temporary:
        temporary.write_text('\n'.join(names) + '\n', encoding='utf-8')


def _move(source, target):
    os.makedirs(os.path.dirname(target), exist_ok=True)
    number, free = 0, target
    while os.path.lexists(free):
        number += 1
        free = f'{target}.{number}'
    if os.path.islink(source) and not os.path.isabs(os.readlink(source)):
        # A relative link must be rewritten for its new folder.
        folder = os.path.realpath(os.path.dirname(source))
        pointee = os.path.join(folder, os.readlink(source))
        aside = os.path.realpath(os.path.dirname(free))
        os.symlink(os.path.relpath(pointee, aside), free)
        os.unlink(source)
        return
    shutil.move(source, free)
