"""Pairs of images and labels, and files without a partner."""

import os
from dataclasses import dataclass, field

from mmengine.dataset import BaseDataset

from clouds_mmseg.datasets.base import DGDataset
from clouds_mmseg.datasets.files import (
    QUARANTINE,
    set_aside,
    suffix_text,
    without_suffix,
)
from clouds_mmseg.datasets.generated import GeneratedDataset
from clouds_mmseg.datasets.labels import table_digest
from clouds_mmseg.datasets.prepared import read_manifest
from clouds_mmseg.datasets.sample_check import Finding, Pair


@dataclass
class Task:
    """A dataset to verify.

    Attributes:
        name: For people: ``'cityscapes val'``.
        dataset: Not opened: built with ``lazy_init=True``.
        training: Whether it is for training.
    """

    name: str
    dataset: BaseDataset
    training: bool = False


@dataclass
class Listing:
    """The files of one dataset.

    Attributes:
        root: Folder that all paths are below.
        key: Tells this dataset from others below the same root.
        pairs: To be read, sorted.
        found: Number of images, skipped ones included.
        set_aside: Number of images that were moved away earlier.
        findings: Files that lack their partner.
    """

    root: str
    key: str
    pairs: list[Pair]
    found: int
    set_aside: int = 0
    findings: list[Finding] = field(default_factory=list)


def has_report(dataset: BaseDataset) -> bool:
    """Whether what is found about a dataset is kept beside its files.

    Args:
        dataset: At the bottom of all wrappers.

    Returns:
        False for banks, which have a manifest with hashes, and for classes
        that are not of this package.
    """
    return isinstance(dataset, DGDataset) and not isinstance(
        dataset, GeneratedDataset
    )


def set_key(dataset: DGDataset) -> str:
    """Name a set of files so that reports about it are found again.

    Args:
        dataset: Opened or not.

    Returns:
        Where images and labels lie, which of them are meant, and a hash of how
        labels are read.
    """
    root = dataset.files_root
    folder = os.path.relpath(dataset.data_prefix['img_path'], root)
    words = [f'{folder}/{suffix_text(dataset.img_suffix)}']
    labels = dataset.data_prefix.get('seg_map_path')
    if labels:
        folder = os.path.relpath(labels, root)
        words.append(f'{folder}/{suffix_text(dataset.seg_map_suffix)}')
        words.append(table_digest(dataset.label_table, dataset.LABEL_CHANNEL))
    if dataset.ann_file:
        words.append(os.path.relpath(dataset.ann_file, root))
    if dataset.image_range is not None:
        # What was found with another range is no longer so.
        words.append('{:g}..{:g}'.format(*dataset.image_range))
    return ' '.join(words)


def same_files(dataset: BaseDataset) -> tuple:
    """Tell datasets apart by their files.

    Args:
        dataset: At the bottom of all wrappers.

    Returns:
        Equal for datasets that read the same files by the same rule.
    """
    if has_report(dataset):
        return (dataset.files_root, set_key(dataset))
    return (getattr(dataset, 'bank', None) or id(dataset),)


def list_files(dataset: BaseDataset) -> Listing:
    """Find out which files a dataset has and which lack their partner.

    Args:
        dataset: Not opened: built with ``lazy_init=True``.

    Returns:
        What there is.

    Raises:
        DataError: A folder is missing, or there is no image.
    """
    if not has_report(dataset):
        return _list_others(dataset)
    root = dataset.files_root
    folder = dataset.data_prefix['img_path']
    if '://' in root:
        raise dataset.data_error(
            f'{root} is remote, and verification reads local files only'
        )

    def below(path):
        return os.path.relpath(path, root)

    samples = dataset.all_samples()
    infos = dataset.without_skipped(samples)
    findings = []
    if dataset.ann_file:
        gone = dataset.missing_files(infos, 'img_path', dataset.img_suffix)
        for info in gone:
            image = below(info['img_path'])
            text = f'{image} is in {below(dataset.ann_file)}, not on disk.'
            findings.append(Finding('no_image', text, image))
        infos = _without(infos, gone)
    aside = set_aside(root)
    if dataset.data_prefix.get('seg_map_path'):
        suffix = dataset.seg_map_suffix
        gone = dataset.missing_files(infos, 'seg_map_path', suffix)
        for info in gone:
            image, label = below(info['img_path']), below(info['seg_map_path'])
            text = f'image {image} has no label {label}.'
            findings.append(Finding('no_label', text, image))
        infos = _without(infos, gone)
        if not dataset.ann_file:
            findings += _orphans(dataset, samples, below, aside)
        for first, second in dataset.two_of_a_label(infos):
            text = f'{below(second)} has the label of {below(first)}.'
            findings.append(Finding('same_label', text, below(second)))
    findings += [
        Finding(
            'not_used',
            f'{below(folder)}/*{end}: {len(names)}, for example {names[0]}; '
            f'img_suffix is {dataset.img_suffix!r}.',
        )
        for end, names in dataset.untaken_images().items()
    ]
    return Listing(
        root=root,
        key=set_key(dataset),
        pairs=[
            Pair(
                below(info['img_path']),
                below(info['seg_map_path']) if 'seg_map_path' in info else '',
            )
            for info in infos
        ],
        found=len(samples),
        set_aside=_set_aside_images(
            dataset, aside | _left_out(dataset), below, samples
        ),
        findings=findings,
    )


def _without(infos, gone):
    gone = {id(info) for info in gone}
    return [info for info in infos if id(info) not in gone]


def _orphans(dataset, samples, below, aside):
    """Labels that belong to no image, and are not known as such."""
    dataset.missing_files(samples, 'seg_map_path', dataset.seg_map_suffix)
    there = {below(path) for path in dataset.label_orphans(samples)} - aside
    return [
        Finding('orphan', f'label {label} has no image.', label=label)
        for label in sorted(there)
        if not label.startswith(f'{QUARANTINE}{os.sep}')
    ]


def _left_out(dataset):
    """Images that were unusable when the folder was prepared."""
    if dataset.data_root is None or '://' in dataset.data_root:
        return set()
    manifest = read_manifest(dataset.data_root)
    return set(manifest.left_out) if manifest else set()


def _set_aside_images(dataset, aside, below, samples):
    folder = os.path.join(below(dataset.data_prefix['img_path']), '')
    folder = folder.removeprefix(f'.{os.sep}')
    present = {below(info['img_path']) for info in samples}
    return sum(
        path.startswith(folder)
        and without_suffix(path, dataset.img_suffix) is not None
        and path not in present
        for path in aside
    )


def _list_others(dataset):
    """The images of a bank or of another package's class."""
    dataset.full_init()
    paths = [
        dataset.get_data_info(index)['img_path']
        for index in range(len(dataset))
    ]
    root = os.path.commonpath([os.path.dirname(p) for p in paths]) or os.curdir
    return Listing(
        root=root,
        key='',
        pairs=[Pair(os.path.relpath(path, root)) for path in paths],
        found=len(paths),
    )
