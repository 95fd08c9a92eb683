"""Quarantine or acceptance of the errors that verification found."""

import os
import shutil

from clouds_mmseg.data_tools.verify.report import SetReport
from clouds_mmseg.datasets.files import QUARANTINE, SKIP_FILE, set_aside
from clouds_mmseg.datasets.sample_check import ACCEPTED, FIXED, MOVABLE
from clouds_mmseg.utils.atomic import atomic_path
from clouds_mmseg.utils.errors import DataError

# Bad pairs are moved up to this share of the images, or up to this number;
# more have another cause than damage to single files.
_MAX_SHARE = 0.1
_ALWAYS_ALLOWED = 10


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
        DataError: Too much of a dataset is bad, or a file cannot be moved.
    """
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
