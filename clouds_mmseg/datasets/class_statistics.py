"""Class statistics: pixels of each class in each label file, stored."""

import json
import os
from collections.abc import Sequence

import numpy as np
from mmengine.logging import print_log

from clouds_mmseg.datasets.base import DGDataset
from clouds_mmseg.datasets.labels import table_digest
from clouds_mmseg.datasets.sample_check import (
    Pair,
    SampleCheck,
    SampleReport,
    changed_files,
)
from clouds_mmseg.utils.data_root import read_existing, report_folder
from clouds_mmseg.utils.errors import DataError
from clouds_mmseg.utils.remote import RemoteError, write_file
from clouds_mmseg.utils.text_files import parse_json

STATISTICS = 'clouds_statistics.json'
_FORMAT = 1
_ENCODING_ERRORS = 'surrogateescape'
# Unusable labels that the error lists.
_NAMED = 5


def statistics_key(dataset: DGDataset) -> str:
    """Return the key of a dataset's labels in the stored statistics.

    Args:
        dataset: With labels.

    Returns:
        Folder and suffix of the labels, and a hash of their table.
    """
    folder = os.path.relpath(
        dataset.data_prefix['seg_map_path'], dataset.files_root
    )
    digest = table_digest(dataset.class_table(), dataset.LABEL_CHANNEL)
    return f'{folder}/*{dataset.seg_map_suffix} {digest}'


def class_pixels(dataset: DGDataset, workers: int | None = None) -> np.ndarray:
    """Count the pixels of each class in each label of a dataset.

    Counts of earlier calls and of ``tools/verify_dataset.py`` are read from
    ``clouds_statistics.json`` beside the data; files that have changed since
    are counted again.

    Args:
        dataset: Opened, with labels.
        workers: Processes. Defaults to the number of cores.

    Returns:
        (len(dataset), number of classes) int64, in the order of the dataset.

    Raises:
        DataError: A label cannot be used.
    """
    root = dataset.files_root
    labels = [
        os.path.relpath(dataset.get_data_info(i)['seg_map_path'], root)
        for i in range(len(dataset))
    ]
    key = statistics_key(dataset)
    rows = read_statistics(root).get(key, {}).get('files', {})
    stamps = {path: rows[path]['stamp'] for path in labels if path in rows}
    changed = set(changed_files(root, stamps))
    missing = [p for p in labels if p not in rows or p in changed]
    if missing:
        fresh = _count(dataset, root, missing, workers)
        rows = {p: rows[p] for p in stamps} | fresh
        try:
            save_statistics(root, key, dataset.metainfo['classes'], fresh)
        except (OSError, RemoteError) as error:
            print_log(
                f'{error.filename or root}: {error.strerror}. The class '
                'statistics are not kept, and counted again next time; '
                '--report-dir DIR keeps them in another folder.',
                logger='current',
            )
    counts = np.zeros((len(labels), len(dataset.metainfo['classes'])), int)
    for row, path in enumerate(labels):
        for index, number in rows[path]['pixels'].items():
            if int(index) < counts.shape[1]:
                counts[row, int(index)] = number
    return counts


def _count(dataset, root, labels, workers):
    check = SampleCheck(root, dataset.class_table(), dataset.LABEL_CHANNEL)
    reports = list(
        check.check_all(
            [Pair('', label) for label in labels],
            workers=workers,
            title=f'Class statistics of {dataset.domain}',
        )
    )
    bad = [r for r in reports if r.pixels is None]
    if bad:
        lines = [f'  {r.findings[0].message}' for r in bad[:_NAMED]]
        if len(bad) > _NAMED:
            lines.append(f'  and {len(bad) - _NAMED} more')
        raise DataError(
            f'{len(bad)} of {len(labels)} labels below {root} cannot be '
            'counted:\n' + '\n'.join(lines),
            '\nclouds verify --fix moves bad files aside.',
        )
    return {r.pair.label: statistics_row(r) for r in reports}


def statistics_row(report: SampleReport) -> dict:
    """Return the stored statistics of one label.

    Args:
        report: With ``pixels``.

    Returns:
        ``stamp`` and ``pixels``: class index (str) -> number, of the classes
        that occur; 255 is ignored pixels.
    """
    counts = report.pixels
    assert counts is not None
    pixels = {str(i): int(counts[i]) for i in counts.nonzero()[0]}
    return dict(stamp=report.stamps[report.pair.label], pixels=pixels)


def read_statistics(root: str) -> dict[str, dict]:
    """Read the stored statistics.

    Args:
        root: ``files_root`` of a dataset.

    Returns:
        Key of a set -> ``classes`` and ``files`` (path ->
        :func:`statistics_row`). Empty if there is no usable file: the
        statistics can be computed again.
    """
    try:
        payload = read_existing(root, STATISTICS)
    except OSError:
        return {}
    if payload is None:
        return {}
    try:
        kept = parse_json(payload.decode('utf-8', _ENCODING_ERRORS))
        return kept['sets'] if kept['format'] == _FORMAT else {}
    except (ValueError, KeyError, TypeError):
        return {}


def save_statistics(
    root: str, key: str, classes: Sequence[str], rows: dict[str, dict]
) -> None:
    """Add rows to the stored statistics.

    Args:
        root: ``files_root`` of a dataset.
        key: From :func:`statistics_key`.
        classes: Names, for readers of the file.
        rows: Path of a label -> :func:`statistics_row`.

    Raises:
        OSError: The folder cannot be written to.
        RemoteError: Nor can the store.
    """
    sets = read_statistics(root)
    files = sets.get(key, {}).get('files', {}) | rows
    sets[key] = dict(classes=list(classes), files=files)
    path = os.path.join(report_folder(root), STATISTICS)
    text = json.dumps(dict(format=_FORMAT, sets=sets), ensure_ascii=False)
    write_file(path, text.encode('utf-8', _ENCODING_ERRORS))
