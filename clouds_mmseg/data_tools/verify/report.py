"""Reports of a verification: the file beside the data, and the text."""

import json
import os
from dataclasses import asdict, dataclass, field

from mmengine.dataset import BaseDataset

from clouds_mmseg.data_tools.verify.listing import (
    Task,
    has_report,
    list_files,
    set_key,
)
from clouds_mmseg.datasets.base import DGDataset
from clouds_mmseg.datasets.files import read_skip_list
from clouds_mmseg.datasets.sample_check import (
    ACCEPTED,
    ERRORS,
    FIXED,
    MOVABLE,
    OPEN,
    WARNINGS,
    Finding,
    changed_files,
)
from clouds_mmseg.utils.data_root import (
    REPORT_DIR_VARIABLE,
    existing_file,
    read_existing,
    report_folder,
)
from clouds_mmseg.utils.errors import DataError, UserError
from clouds_mmseg.utils.remote import RemoteError, is_address, write_file
from clouds_mmseg.utils.tables import format_table
from clouds_mmseg.utils.text_files import parse_json

REPORT = 'clouds_verify.json'
_FORMAT = 1
# File names need not be UTF-8: their bytes are kept.
_ENCODING_ERRORS = 'surrogateescape'
_UNPAIRED_KINDS = ('no_image', 'no_label', 'orphan')
# Printed findings of one kind; the file has all of them.
_MAX_FINDINGS = 20
# Sets up to which the class table also has the numbers of images.
_MAX_WIDE_SETS = 3


@dataclass
class SetReport:
    """Result of verifying one dataset: a split, a condition or a folder.

    Attributes:
        name: Name in messages: ``'cityscapes val'``.
        root: Folder that all paths are relative to; '' if it was not found.
        key: See :func:`set_key`; '' if no report is kept.
        training: Whether it is for training.
        images: Images that were read.
        expected: Images of the official release; None: unknown.
        set_aside: Images that were moved to quarantine or left out earlier.
        classes: Class names.
        pixels: Pixels of each class.
        images_with: Images in which each class occurs.
        ignored: Pixels that belong to no class.
        sizes: ``'1914x1052'`` (width x height) -> images.
        findings: Errors and warnings.
        stamps: Path -> :func:`stamp`, of every file that was read.
        digests: Image -> its hash, and its label. Not stored.
        when: Time of the verification, ISO 8601.
        command: Command that was run.
        kept_at: File that this was written to or read from; '' if it was not
            written. Not stored.
    """

    name: str
    root: str = ''
    key: str = ''
    training: bool = False
    images: int = 0
    expected: int | None = None
    set_aside: int = 0
    classes: list[str] = field(default_factory=list)
    pixels: list[int] = field(default_factory=list)
    images_with: list[int] = field(default_factory=list)
    ignored: int = 0
    sizes: dict[str, int] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)
    stamps: dict[str, str] = field(default_factory=dict)
    digests: dict[str, tuple[str, str]] = field(default_factory=dict)
    when: str = ''
    command: str = ''
    kept_at: str = ''

    @property
    def errors(self) -> list[Finding]:
        """Errors in any state."""
        return [f for f in self.findings if f.is_error]

    @property
    def open_errors(self) -> list[Finding]:
        """Errors that are neither accepted nor fixed."""
        return [f for f in self.errors if f.state == OPEN]

    @property
    def warnings(self) -> list[Finding]:
        """Findings that do not stop training."""
        return [f for f in self.findings if not f.is_error]

    def to_json(self) -> dict:
        """Return the stored fields as JSON values."""
        kept = asdict(self)
        for name in ('root', 'key', 'digests', 'kept_at'):
            del kept[name]
        return kept

    @classmethod
    def from_json(
        cls, kept: dict, root: str, key: str, path: str
    ) -> 'SetReport':
        """Restore a report from the result of :meth:`to_json`.

        Args:
            kept: The stored fields.
            root: Folder of the data set.
            key: Of the set.
            path: The file that it was read from.

        Raises:
            TypeError: The fields are not those of a report.
        """
        found = [Finding(**finding) for finding in kept['findings']]
        return cls(
            **dict(kept, root=root, key=key, findings=found, kept_at=path)
        )


def read_reports(root: str) -> dict[str, SetReport]:
    """Read the reports of earlier verifications.

    Args:
        root: ``files_root`` of the data sets.

    Returns:
        Key of a set -> report. Empty if there is none.

    Raises:
        DataError: The file is not a report of this version.
    """
    path = report_path(root)
    payload = read_existing(root, REPORT)
    if payload is None:
        return {}
    try:
        kept = parse_json(payload.decode('utf-8', _ENCODING_ERRORS))
        if kept['format'] != _FORMAT:
            raise ValueError(f'format {kept["format"]}, not {_FORMAT}')
        return {
            key: SetReport.from_json(value, root, key, path)
            for key, value in kept['sets'].items()
        }
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f'{path} is not a report of this version of '
            f'clouds verify ({error!r}).',
            'Delete it and verify again.',
        ) from error


def write_reports(root: str, reports: list[SetReport]) -> None:
    """Write reports beside the data; those of other sets there are kept.

    Args:
        root: ``files_root`` of the data sets.
        reports: Replace those of equal keys; ``kept_at`` is set.

    Raises:
        DataError: The folder cannot be written to.
    """
    kept = read_reports(root) | {report.key: report for report in reports}
    sets = {key: kept[key].to_json() for key in sorted(kept)}
    content = json.dumps(
        dict(format=_FORMAT, sets=sets), indent=1, ensure_ascii=False
    )
    path = os.path.join(report_folder(root), REPORT)
    try:
        write_file(path, (content + '\n').encode('utf-8', _ENCODING_ERRORS))
    except (OSError, RemoteError) as error:
        raise DataError(
            f'the report {path} cannot be written: {error.strerror}.',
            'Without it training does not know what was found. Verify as a '
            'user who may write there, or keep it in another folder, and tell '
            f'training of it, with --report-dir DIR or {REPORT_DIR_VARIABLE}.',
        ) from error
    for report in reports:
        report.kept_at = path


def report_path(root: str) -> str:
    """Return the path of the report of a data set.

    Args:
        root: ``files_root`` of the data set.
    """
    return existing_file(root, REPORT)


def current_reports(tasks: list[Task]) -> list[SetReport] | None:
    """Return the reports of an earlier verification, if they are up to date.

    Only sizes and modification times of the files are compared.

    Args:
        tasks: The datasets.

    Returns:
        None if any of the datasets must be verified again.
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
        if f.kind in _UNPAIRED_KINDS and f.state != FIXED
    )
    same = (
        files - {''} == set(report.stamps)
        and sorted(f.message for f in listing.findings) == known
        and not changed_files(listing.root, report.stamps)
    )
    report.name, report.training = task.name, task.training
    return report if same else None


def report_of(dataset: BaseDataset) -> SetReport | None:
    """Return the stored report of a dataset.

    Args:
        dataset: Without wrappers.

    Returns:
        None if it was never verified.

    Raises:
        DataError: The file is not a report of this version.
    """
    if not has_report(dataset):
        return None
    return read_reports(dataset.files_root).get(set_key(dataset))


def errors_of(report: SetReport, dataset: DGDataset) -> list[Finding]:
    """Return the open errors that concern a dataset.

    Args:
        report: Of this dataset.
        dataset: May leave out images by ``skip``.

    Returns:
        Those about no image that ``skip`` leaves out.
    """
    names = read_skip_list(dataset.skip)

    def skipped(image):
        path = os.path.join(report.root, image)
        return bool(image) and bool(dataset.names_of(path, names))

    return [f for f in report.open_errors if not skipped(f.image)]


def changes_since(report: SetReport, dataset: DGDataset) -> int:
    """Count the files that are new or changed since the verification.

    Args:
        report: Of this dataset.
        dataset: Opened.

    Returns:
        New images, and files with another size or modification time.
    """
    pairs = list_files(dataset).pairs
    new = sum(pair.image not in report.stamps for pair in pairs)
    return new + len(changed_files(report.root, report.stamps))


def reports_text(reports: list[SetReport]) -> str:
    """Format the result of a verification.

    Args:
        reports: Of all datasets.

    Returns:
        Tables, then the errors and warnings by kind, with their files.
    """
    parts = [_sets_table(reports), _class_table(reports)]
    parts += [_findings(r) for r in reports if r.findings]
    kept = dict.fromkeys(r.kept_at for r in reports if r.kept_at)
    if kept:
        parts.append('\n  '.join(['The reports:', *kept]))
    lost = dict.fromkeys(r.root for r in reports if r.key and not r.kept_at)
    if lost:
        head = (
            'No report could be written for these folders, and training will '
            'not know of this; --report-dir DIR keeps reports elsewhere:'
        )
        parts.append('\n  '.join([head, *lost]))
    return '\n'.join(part for part in parts if part)


def advice_text(reports: list[SetReport], command: str) -> str:
    """List the ways to resolve open errors.

    Args:
        reports: Of all datasets.
        command: The verification command, without ``--fix``.

    Returns:
        Empty if there are no open errors.
    """
    errors = [f for r in reports for f in r.open_errors]
    if not errors:
        return ''
    lines = ['Training refuses this data. What can be done:']
    if any(
        f.kind in (*MOVABLE, 'orphan')
        for r in reports
        for f in r.open_errors
        if not is_address(r.root)
    ):
        lines.append(f'  move the bad files aside:   {command} --fix')
    if any(f.kind != 'layout' for f in errors):
        lines.append(f'  train on it as it is:       {command} --accept')
    lines.append(f'  repair it, verify again:    {command}')
    return '\n'.join(lines)


def counted(number: int, noun: str) -> str:
    """Format a number with its noun: ``1 error``, ``2 errors``."""
    return f'{number} {noun}' + ('' if number == 1 else 's')


def _sets_table(reports):
    rows = []
    for report in reports:
        sizes = [f'{size}' for size in list(report.sizes)[:2]]
        if len(report.sizes) > 2:
            sizes.append(f'{len(report.sizes) - 2} more')
        rows.append(
            [
                report.name,
                report.images,
                '' if report.expected is None else report.expected,
                ', '.join(sizes),
                _errors_cell(report),
                len(report.warnings),
            ]
        )
    columns = ['set', 'images', 'expected', 'sizes', 'errors', 'warnings']
    return format_table(columns, rows, left=['sizes'])


def _errors_cell(report):
    words = [str(len(report.open_errors))]
    for state in (ACCEPTED, FIXED):
        number = sum(f.state == state for f in report.errors)
        if number:
            words.append(f'{number} {state}')
    return ' + '.join(words) if words[0] != '0' else ', '.join(words[1:]) or 0


def _class_table(reports):
    """Share of the labelled pixels and number of images of each class."""
    reports = [r for r in reports if sum(r.pixels)]
    if not reports:
        return ''
    narrow = len(reports) > _MAX_WIDE_SETS
    head = '% of pixels' if narrow else '% of pixels (images)'
    rows = [
        [name, *(_class_cell(r, name, narrow) for r in reports)]
        for name in dict.fromkeys(c for r in reports for c in r.classes)
    ]
    rows += [None, ['ignored', *(_ignored_cell(r) for r in reports)]]
    return format_table([head, *_short_names(reports)], rows)


def _short_names(reports):
    """Set names without the first word, if it is common to all."""
    names = [report.name for report in reports]
    words = {name.split()[0] for name in names}
    if len(words) > 1 or not all(' ' in name for name in names):
        return names
    return [name.split(' ', 1)[1] for name in names]


def _class_cell(report, name, narrow):
    if name not in report.classes:
        return ''
    index = report.classes.index(name)
    if not report.pixels[index]:
        return '-'
    share = f'{100 * report.pixels[index] / sum(report.pixels):.3f}'
    return share if narrow else f'{share} ({report.images_with[index]})'


def _ignored_cell(report):
    every = report.ignored + sum(report.pixels)
    return f'{100 * report.ignored / every:.3f}'


def _findings(report):
    lines = []
    for kind, what in (ERRORS | WARNINGS).items():
        for state in (OPEN, ACCEPTED, FIXED):
            selected = [
                f
                for f in report.findings
                if f.kind == kind and f.state == state
            ]
            if not selected:
                continue
            word = 'error' if kind in ERRORS else 'warning'
            word = word if state == OPEN else f'{state} {word}'
            lines.append(f'{report.name}: {word}: {what}: {len(selected)}')
            lines += [f'  {f.message}' for f in selected[:_MAX_FINDINGS]]
            if len(selected) > _MAX_FINDINGS:
                lines.append(f'  and {len(selected) - _MAX_FINDINGS} more')
    return '\n'.join(lines)
