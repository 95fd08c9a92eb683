"""Quick check of labels: missing classes, ignored pixels, wrong ids."""

import os
import random
import time
from dataclasses import dataclass

import numpy as np

from clouds_mmseg.datasets.base import DGDataset
from clouds_mmseg.datasets.class_statistics import (
    read_statistics,
    statistics_key,
    statistics_row,
)
from clouds_mmseg.datasets.folder import FolderDataset
from clouds_mmseg.datasets.sample_check import (
    Finding,
    Pair,
    SampleCheck,
    SampleReport,
    changed_files,
)
from clouds_mmseg.utils.cityscapes import IGNORE
from clouds_mmseg.utils.errors import DataError

# Share of ignored pixels above which there is a warning.
MUCH = 0.5
# Labels to count before a class is reported as missing.
_ENOUGH = 50


@dataclass
class LabelCount:
    """Pixels of each class in some labels of a dataset.

    Attributes:
        pixels: (256,) int64: pixels of each class index, at 255 the ignored
            pixels.
        seen: Number of labels that were counted.
        total: Number of labels of the dataset.
    """

    pixels: np.ndarray
    seen: int
    total: int

    @classmethod
    def of_classes(
        cls, pixels: list[int], ignored: int, *, labels: int
    ) -> 'LabelCount':
        """Make the count of all labels.

        Args:
            pixels: Of each class.
            ignored: Pixels of no class.
            labels: Number of labels.
        """
        counts = np.zeros(256, np.int64)
        counts[: len(pixels)] = pixels
        counts[IGNORE] = ignored
        return cls(counts, labels, labels)

    @property
    def ignored_share(self) -> float:
        """Share of ignored pixels, in 0..1."""
        return float(self.pixels[IGNORE] / max(1, self.pixels.sum()))


def look_at_labels(
    dataset: DGDataset, *, seconds: float = 3.0, seed: int = 0
) -> LabelCount:
    """Count the classes in a random sample of labels, or in all of a few.

    Labels that rare-class sampling or verification has counted are taken from
    ``clouds_statistics.json`` beside the data.

    Args:
        dataset: Opened, with labels.
        seconds: Time after which no further label is read.
        seed: Of the order in which they are read.

    Raises:
        DataError: A label has an id that the dataset does not define.
    """
    root = dataset.files_root
    paths = [
        os.path.relpath(dataset.get_data_info(i)['seg_map_path'], root)
        for i in range(len(dataset))
    ]
    order = list(dict.fromkeys(paths))
    random.Random(seed).shuffle(order)
    kept = read_statistics(root).get(statistics_key(dataset), {})
    files = kept.get('files', {})
    rows = {path: files[path] for path in order if path in files}
    stamps = {path: row['stamp'] for path, row in rows.items()}
    for path in changed_files(root, stamps):
        del rows[path]
    check = SampleCheck(root, dataset.class_table(), dataset.LABEL_CHANNEL)
    count = LabelCount(np.zeros(256, np.int64), 0, len(order))
    end = time.monotonic() + seconds
    for path in order:
        row = rows.get(path)
        if row is None:
            report = check(Pair('', path))
            _refuse_ids(dataset, report)
            # A damaged file is reported when it is used, or by verification.
            row = statistics_row(report) if report.pixels is not None else None
        if row is not None:
            for index, number in row['pixels'].items():
                count.pixels[int(index)] += number
            count.seen += 1
        if time.monotonic() > end:
            break
    return count


def _refuse_ids(dataset: DGDataset, report: SampleReport) -> None:
    for finding in report.findings:
        if finding.kind == 'ids':
            number = len(dataset.metainfo['classes'])
            advice = ''
            if f'outside the classes: {number};' in finding.message:
                advice = _advise_ids_from_one(dataset)
            raise DataError(
                f'{type(dataset).__name__} (domain {dataset.domain}): '
                f'{finding.message}',
                advice,
                kind='ids',
            )


def _names_table(names: list[str], first: int) -> str:
    pairs = [f'{name!r}: {i}' for i, name in enumerate(names, first)]
    if len(pairs) > 4:
        pairs[3:] = ['...']
    return '{' + ', '.join(pairs) + '}'


def _advise_ids_from_one(dataset: DGDataset) -> str:
    names = list(dataset.metainfo['classes'])
    return (
        'If the ids in the files count from 1, and 0 is no class, write '
        f'names={_names_table(names, 1)}, ignored=[0].'
    )


def absent_classes(dataset: DGDataset, count: LabelCount) -> list[str]:
    """Name the classes that occur in no label although they should.

    The classes of published sets are known: that SYNTHIA has no train is no
    mistake. ``label_map={'train': []}`` says the same for folders of your own.

    Args:
        dataset: With labels.
        count: Of its labels.
    """
    if not isinstance(dataset, FolderDataset):
        return []
    possible = set(dataset.label_table.tolist())
    return [
        name
        for index, name in enumerate(dataset.metainfo['classes'])
        if index in possible and not count.pixels[index]
    ]


def label_findings(
    dataset: DGDataset, count: LabelCount, training: bool
) -> list[Finding]:
    """Derive findings from the classes that the labels show.

    Args:
        dataset: With labels.
        count: Of its labels.
        training: Whether the dataset is for training. A class that a test set
            lacks is no finding.

    Returns:
        An error where 255 must be a class; else warnings.
    """
    if not count.seen:
        return []
    findings = []
    own = isinstance(dataset, FolderDataset)
    absent = absent_classes(dataset, count)
    classes = list(dataset.metainfo['classes'])
    all_counted = count.seen == count.total
    if all_counted and not count.pixels[: len(classes)].any():
        text = 'no label has a pixel of any class: all of them are ignored.'
        return [Finding('ignored', text)]
    labels = (
        'no label'
        if all_counted
        else f'none of {count.seen} labels (of {count.total})'
    )
    share = f'{100 * count.ignored_share:.0f} % of the pixels'
    # 255 is ignored by default, not by an option of the dataset.
    only_default = own and not dataset.ignored
    if (
        only_default
        and len(classes) == 2
        and len(absent) == 1
        and count.pixels[IGNORE]
        and (all_counted or count.seen >= _ENOUGH)
    ):
        findings.append(
            Finding(
                'mask_255' if all_counted else 'absent',
                f'the class {absent[0]!r} occurs in {labels}, and {share} are '
                f'255, which is ignored. If 255 is {absent[0]!r}, write '
                f'names={_with_255(dataset, absent[0])}; if they are to be '
                'ignored, write ignored=[255].',
            )
        )
        return findings
    if (
        training
        and absent
        and (all_counted or (own and count.seen >= _ENOUGH))
    ):
        text = f'{", ".join(absent)}: occur in {labels}.'
        if own and absent == classes[:1] and len(classes) > 1:
            text += ' Do the ids in the files count from 1?'
        if only_default and count.pixels[IGNORE] and len(absent) == 1:
            text += f' {share} are 255, which is ignored: is that the class?'
        findings.append(Finding('absent', text))
    # Of one class alone, what is ignored is its background.
    many = len(classes) > 1
    zero = dataset.label_table[0] == 0
    if not many and only_default and zero and count.pixels[IGNORE]:
        findings.append(
            Finding(
                'one_class',
                f'the id 0 is {classes[0]!r} here, and 255 ({share}) is '
                f'background. If 255 is {classes[0]!r}, write '
                f'names={{{classes[0]!r}: 255}}, ignored=[0]; if it is '
                'background, write ignored=[255].',
            )
        )
    if many and count.ignored_share > MUCH and (training or own):
        findings.append(
            Finding(
                'much_ignored',
                f'{share} in the labels belong to no class and are ignored.',
            )
        )
    return findings


def _with_255(dataset: DGDataset, absent: str) -> str:
    """Write the table of names in which the missing class is 255."""
    ids = {index: number for number, index in dataset.label_ids(None).items()}
    pairs = [
        f'{name!r}: {255 if name == absent else ids[index]}'
        for index, name in enumerate(dataset.metainfo['classes'])
    ]
    return '{' + ', '.join(pairs) + '}'
