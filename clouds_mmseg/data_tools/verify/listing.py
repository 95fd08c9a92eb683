"""Datasets to verify, their image-label pairs and their unpaired files."""

import os
from dataclasses import dataclass, field

from mmengine import fileio
from mmengine.dataset import BaseDataset
from mmseg.registry import DATASETS

from clouds_mmseg.datasets.base import DGDataset
from clouds_mmseg.datasets.driving import CONDITIONS, SETS
from clouds_mmseg.datasets.files import (
    QUARANTINE,
    common_folder,
    set_aside,
    suffix_text,
    without_suffix,
)
from clouds_mmseg.datasets.generated import GeneratedDataset
from clouds_mmseg.datasets.labels import table_digest
from clouds_mmseg.datasets.prepared import read_manifest
from clouds_mmseg.datasets.sample_check import Finding, Pair
from clouds_mmseg.toycity.dataset import MANIFEST as TOYCITY_MANIFEST
from clouds_mmseg.toycity.dataset import (
    read_manifest as read_toycity_manifest,
)
from clouds_mmseg.utils.errors import DataError
from clouds_mmseg.utils.remote import is_address

VERIFIED_SETS = (*SETS, 'toycity')


@dataclass
class Task:
    """A dataset to verify.

    Attributes:
        name: Name in messages: ``'cityscapes val'``.
        dataset: Not opened: built with ``lazy_init=True``.
        training: Whether it is for training.
    """

    name: str
    dataset: BaseDataset
    training: bool = False


@dataclass(frozen=True)
class Split:
    """One part of a data set that is known by name.

    Attributes:
        name: Name in messages, without that of the set.
        config: Of the dataset, without ``data_root``.
        images: Number of images of the release.
        training: Whether it is for training.
        below: Its ``data_root``, relative to that of the set.
        other_labels: Label folder to read where that of the config does not
            exist.
    """

    name: str
    config: dict = field(hash=False)
    images: int | None = None
    training: bool = False
    below: str = ''
    other_labels: str | None = None


def _published(kind):
    """Yield the splits of a published set."""
    facts = kind.FACTS
    for condition, images in (facts.conditions or {'': facts.images}).items():
        for split, count in images.items():
            config = dict(type=kind.__name__)
            fields = dict(split=split)
            if condition:
                fields['condition'] = config['condition'] = condition
            folder = facts.img_path.format(**fields)
            if split in facts.unlabelled:
                config['data_prefix'] = dict(img_path=folder)
            elif '{split}' in facts.img_path:
                config['split'] = split
            labels = None
            if facts.other_labels and split not in facts.unlabelled:
                labels = facts.other_labels.format(**fields)
            yield Split(
                f'{condition} {split}'.strip(),
                config,
                count,
                training=split.startswith('train'),
                other_labels=labels,
            )


def _toycity(root):
    manifest = read_toycity_manifest(os.path.join(root, TOYCITY_MANIFEST))
    images = manifest['images'] if manifest else {}
    source, city = dict(type='GTA5Dataset'), dict(type='CityscapesDGDataset')
    acdc = dict(type='ACDCDataset')
    for name, config, below in (
        ('source', source, 'source'),
        ('source_val', source, 'source_val'),
        ('clear', city, 'clear'),
        *((c, dict(acdc, condition=c), 'acdc') for c in CONDITIONS),
    ):
        yield Split(
            name,
            config,
            images.get(name),
            training=name == 'source',
            below=below,
        )


def named_tasks(name: str, root: str) -> list[Task]:
    """Build the datasets of a set that exist below a folder.

    Args:
        name: One of :data:`VERIFIED_SETS`.
        root: Folder of the set, or its address.

    Returns:
        One task for each split whose image folder exists.

    Raises:
        DataError: The name is unknown, the folder does not exist or holds none
            of the splits.
    """
    if name not in VERIFIED_SETS:
        raise DataError(
            f'{name!r} is not a data set with a name: '
            f'{", ".join(VERIFIED_SETS)}.',
            'For your own folders give a config that names them: '
            '--config CONFIG.',
        )
    # Of an address it would remove a slash.
    root = root.rstrip('/') if is_address(root) else os.path.normpath(root)
    if not fileio.isdir(root):
        raise DataError(
            f'{root} does not exist (from {os.getcwd()}).',
            f'Give the folder of {name} with --data-root.',
        )
    tasks, first = [], None
    for split in _published(SETS[name]) if name in SETS else _toycity(root):
        dataset = _build(split, root)
        # Not `or`: asking for its length opens it.
        first = dataset if first is None else first
        if fileio.isdir(dataset.data_prefix['img_path']):
            tasks.append(Task(f'{name} {split.name}', dataset, split.training))
    if not tasks and first is not None:
        # Raises the error that lists the expected files.
        first.all_samples()
    return tasks


def _build(split, root):
    config = dict(
        split.config,
        data_root=os.path.join(root, split.below) if split.below else root,
        expected=split.images,
        lazy_init=True,
        pipeline=[],
    )
    dataset = DATASETS.build(config)
    labels = dataset.data_prefix.get('seg_map_path')
    if split.other_labels and not fileio.isdir(labels):
        other = os.path.join(root, split.other_labels)
        if fileio.isdir(other):
            images = os.path.relpath(dataset.data_prefix['img_path'], root)
            prefix = dict(img_path=images, seg_map_path=split.other_labels)
            return DATASETS.build(dict(config, data_prefix=prefix))
    return dataset


@dataclass
class Listing:
    """The files of one dataset.

    Attributes:
        root: Folder that all paths are relative to.
        key: See :func:`set_key`.
        pairs: To be read, sorted.
        found: Number of images, skipped ones included.
        set_aside: Number of images that were moved to quarantine or left out
            earlier.
        findings: Unpaired and unused files.
    """

    root: str
    key: str
    pairs: list[Pair]
    found: int
    set_aside: int = 0
    findings: list[Finding] = field(default_factory=list)


def has_report(dataset: BaseDataset) -> bool:
    """Return whether reports about a dataset are stored beside its files.

    Args:
        dataset: Without wrappers.

    Returns:
        False for generated image sets, whose manifest has hashes, and for
        classes of other packages.
    """
    return isinstance(dataset, DGDataset) and not isinstance(
        dataset, GeneratedDataset
    )


def set_key(dataset: DGDataset) -> str:
    """Return the key of a dataset's files in the reports below one root.

    Args:
        dataset: Opened or not.

    Returns:
        Folders and suffixes of images and labels, a hash of the label table,
        and annotation file and image range if there are any.
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
        # Findings depend on the range.
        words.append('{:g}..{:g}'.format(*dataset.image_range))
    return ' '.join(words)


def same_files(dataset: BaseDataset) -> tuple:
    """Return a key that identifies the files of a dataset.

    Args:
        dataset: Without wrappers.

    Returns:
        Equal for datasets that read the same files in the same way.
    """
    if has_report(dataset):
        return (dataset.files_root, set_key(dataset))
    return (getattr(dataset, 'bank', None) or id(dataset),)


def list_files(dataset: BaseDataset) -> Listing:
    """List the pairs of a dataset, and the files that are unpaired.

    Args:
        dataset: Not opened: built with ``lazy_init=True``.

    Raises:
        DataError: A folder is missing, or there is no image.
    """
    if not has_report(dataset):
        return _list_others(dataset)
    root = dataset.files_root
    folder = dataset.data_prefix['img_path']
    if '://' in root and (dataset.backend_args or not is_address(root)):
        raise dataset.data_error(
            f'{root} is read by a file backend of mmengine, and verification '
            'reads local files and those of stores such as s3:// only'
        )

    if '://' in folder and '://' not in root:
        raise dataset.data_error(
            'images and labels lie in different stores or buckets, and '
            'verification keeps its report beside both'
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
    quarantined = set_aside(root)
    if dataset.data_prefix.get('seg_map_path'):
        suffix = dataset.seg_map_suffix
        gone = dataset.missing_files(infos, 'seg_map_path', suffix)
        for info in gone:
            image, label = below(info['img_path']), below(info['seg_map_path'])
            text = f'image {image} has no label {label}.'
            findings.append(Finding('no_label', text, image))
        infos = _without(infos, gone)
        if not dataset.ann_file:
            findings += _orphans(dataset, samples, below, quarantined)
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
        set_aside=_count_set_aside(
            dataset, quarantined | _left_out(dataset), below, samples
        ),
        findings=findings,
    )


def _without(infos, gone):
    gone = {id(info) for info in gone}
    return [info for info in infos if id(info) not in gone]


def _orphans(dataset, samples, below, quarantined):
    """Find labels without image that are not quarantined yet."""
    dataset.missing_files(samples, 'seg_map_path', dataset.seg_map_suffix)
    orphans = {
        below(path) for path in dataset.label_orphans(samples)
    } - quarantined
    return [
        Finding('orphan', f'label {label} has no image.', label=label)
        for label in sorted(orphans)
        if not label.startswith(f'{QUARANTINE}{os.sep}')
    ]


def _left_out(dataset):
    """Images that the preparation has left out as unusable."""
    if dataset.data_root is None:
        return set()
    manifest = read_manifest(dataset.data_root)
    return set(manifest.left_out) if manifest else set()


def _count_set_aside(dataset, excluded, below, samples):
    folder = os.path.join(below(dataset.data_prefix['img_path']), '')
    folder = folder.removeprefix(f'.{os.sep}')
    present = {below(info['img_path']) for info in samples}
    return sum(
        path.startswith(folder)
        and without_suffix(path, dataset.img_suffix) is not None
        and path not in present
        for path in excluded
    )


def _list_others(dataset):
    """List a generated image set, or a class of another package."""
    dataset.full_init()
    paths = [
        dataset.get_data_info(index)['img_path']
        for index in range(len(dataset))
    ]
    if '://' in paths[0] and not is_address(paths[0]):
        raise DataError(
            f'{getattr(dataset, "bank", paths[0])} is packed, and '
            'verification reads plain files only'
        )
    root = common_folder([os.path.dirname(path) for path in paths])
    return Listing(
        root=root,
        key='',
        pairs=[Pair(os.path.relpath(path, root)) for path in paths],
        found=len(paths),
    )
