"""The report that lies beside the data, or in a folder for reports."""

import hashlib
import json
import os

from clouds_mmseg.datasets.errors import DataError
from clouds_mmseg.datasets.verify.set_report import SetReport
from clouds_mmseg.utils.atomic import atomic_path

REPORT = 'clouds_verify.json'
_FORMAT = 1
# File names need not be UTF-8: their bytes are kept.
_ODD = 'surrogateescape'


# A folder for reports and class statistics where the data is read-only.
REPORT_DIR_VARIABLE = 'CLOUDS_REPORT_DIR'


def report_folder(root):
    """Where reports and class statistics of a data set are written.

    Args:
        root (str): ``files_root`` of the data set.

    Returns:
        str: The root; with ``CLOUDS_REPORT_DIR`` a folder below that, whose
        name tells roots apart.
    """
    elsewhere = os.environ.get(REPORT_DIR_VARIABLE)
    if not elsewhere or '://' in root:
        return root
    whole = os.path.abspath(root)
    digest = hashlib.blake2b(os.fsencode(whole), digest_size=4).hexdigest()
    return os.path.join(elsewhere, f'{os.path.basename(whole)}-{digest}')


def existing_file(root, name):
    """Where a file about a data set is read.

    Args:
        root (str): ``files_root`` of the data set.
        name (str): Of the file.

    Returns:
        str: Its path in :func:`report_folder`, unless only the root has it.
    """
    path = os.path.join(report_folder(root), name)
    beside = os.path.join(root, name)
    return path if os.path.exists(path) else beside


def report_path(root):
    """Where the report of a data set is.

    Args:
        root (str): ``files_root`` of the data set.

    Returns:
        str: Path of the file.
    """
    return existing_file(root, REPORT)


def read_reports(root):
    """Read what earlier verifications have found below a folder.

    Args:
        root (str): ``files_root`` of the data sets.

    Returns:
        dict[str, SetReport]: Key of a set -> report. Empty if there is none.

    Raises:
        DataError: The file is no such report.
    """
    path = report_path(root)
    try:
        with open(path, encoding='utf-8', errors=_ODD) as stream:
            kept = json.load(stream)
        if kept['format'] != _FORMAT:
            raise ValueError(f'format {kept["format"]}, not {_FORMAT}')
        return {
            key: SetReport.from_json(value, root, key, path)
            for key, value in kept['sets'].items()
        }
    except FileNotFoundError:
        return {}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f'{path} is not a report of this version of '
            f'tools/verify_dataset.py ({error!r}).',
            'Delete it and verify again.',
        ) from error


def write_reports(root, reports):
    """Write reports beside the data, and keep those about other sets there.

    Args:
        root (str): ``files_root`` of the data sets.
        reports (list[SetReport]): New ones.

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
        with atomic_path(path) as temporary:
            temporary.write_text(content + '\n', encoding='utf-8', errors=_ODD)
    except OSError as error:
        raise DataError(
            f'the report {path} cannot be written: {error.strerror}.',
            'Without it training does not know what was found. Verify as a '
            'user who may write there, or keep it in another folder, and tell '
            f'training of it, with --report-dir DIR or {REPORT_DIR_VARIABLE}.',
        ) from error
    for report in reports:
        report.kept_at = path
