"""Earlier reports, while the files are still those that were read."""

import os

from clouds_mmseg.datasets.skip_list import read_skip_list
from clouds_mmseg.datasets.verify.findings import FIXED
from clouds_mmseg.datasets.verify.listing import (
    has_report,
    list_files,
    set_key,
)
from clouds_mmseg.datasets.verify.report_file import read_reports
from clouds_mmseg.datasets.verify.stamps import changed_files
from clouds_mmseg.utils.errors import UserError

_PARTNERS = ('no_image', 'no_label', 'orphan')


def current_reports(tasks):
    """Take what an earlier verification found, if nothing has changed since.

    Sizes and times of the files are compared; nothing is read.

    Args:
        tasks (list[Task]): What would be verified.

    Returns:
        list[SetReport] | None: Their reports; None if any of them has to be
        made anew.
    """
    reports = {}
    for task in tasks:
        report = _current(task)
        if report is None:
            return None
        reports.setdefault((report.root, report.key), report)
    return list(reports.values())


def _current(task):
    if not has_report(task.dataset):
        return None
    try:
        listing = list_files(task.dataset)
    except UserError:
        return None
    report = read_reports(listing.root).get(listing.key)
    if report is None or report.expected != task.dataset.expected:
        return None
    files = {p for pair in listing.pairs for p in (pair.image, pair.label)}
    known = sorted(
        f.message
        for f in report.findings
        if f.kind in _PARTNERS and f.state != FIXED
    )
    same = (
        files - {''} == set(report.stamps)
        and sorted(f.message for f in listing.findings) == known
        and not changed_files(listing.root, report.stamps)
    )
    report.name, report.training = task.name, task.training
    return report if same else None


def report_of(dataset):
    """What is known of a dataset that is about to be used.

    Args:
        dataset (Dataset): At the bottom of all wrappers.

    Returns:
        SetReport | None: None if it was never verified.

    Raises:
        DataError: There is a report that cannot be read.
    """
    if not has_report(dataset):
        return None
    return read_reports(dataset.files_root).get(set_key(dataset))


def errors_of(report, dataset):
    """Errors that still matter to a dataset.

    Args:
        report (SetReport): Of this dataset.
        dataset (DGDataset): It may leave out images by ``skip``.

    Returns:
        list[Finding]: Neither fixed nor accepted, and about no image that is
        left out.
    """
    names = read_skip_list(dataset.skip)

    def skipped(image):
        path = os.path.join(report.root, image)
        return bool(image) and bool(dataset.names_of(path, names))

    return [f for f in report.open_errors if not skipped(f.image)]


def changes_since(report, dataset):
    """Count the files that verification has not seen as they are now.

    Args:
        report (SetReport): Of this dataset.
        dataset (DGDataset): Opened.

    Returns:
        int: Images that are new, and files with another size or time.
    """
    pairs = list_files(dataset).pairs
    new = sum(pair.image not in report.stamps for pair in pairs)
    return new + len(changed_files(report.root, report.stamps))
