"""Checks of datasets before the first iteration."""

import itertools
import logging
import os
from collections.abc import Iterator

from mmengine.dist import broadcast_object_list, is_main_process
from mmengine.evaluator import BaseMetric
from mmengine.logging import print_log
from mmseg.datasets import PackSegInputs
from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from torch import nn
from torch.utils.data import Dataset

from clouds_mmseg.data_tools.verify.label_look import (
    LabelCount,
    absent_classes,
    label_findings,
    look_at_labels,
)
from clouds_mmseg.data_tools.verify.listing import has_report, same_files
from clouds_mmseg.data_tools.verify.report import (
    advice_text,
    changes_since,
    counted,
    errors_of,
    report_of,
    report_path,
)
from clouds_mmseg.datasets.base import DGDataset, steps_of
from clouds_mmseg.datasets.files import suffix_text
from clouds_mmseg.datasets.folder import FolderDataset
from clouds_mmseg.datasets.labelled_sources import LabelledSources
from clouds_mmseg.datasets.rare_classes import RareClassDataset
from clouds_mmseg.datasets.sampling import KeyedDataset
from clouds_mmseg.datasets.transforms import PackDGInputs
from clouds_mmseg.utils.atomic import atomic_path
from clouds_mmseg.utils.cityscapes import IGNORE
from clouds_mmseg.utils.errors import UserError
from clouds_mmseg.utils.hashing import hash_text
from clouds_mmseg.utils.result_warnings import keep_for_results

# Bad files listed in an error.
_MAX_LISTED = 5


def leaf_datasets(dataset: Dataset) -> Iterator[Dataset]:
    """Iterate over the datasets inside wrappers and concatenations.

    Args:
        dataset: A dataset of mmengine, wrapped or not.

    Yields:
        Datasets that read files themselves.
    """
    for child in getattr(dataset, 'datasets', None) or [
        getattr(dataset, 'dataset', None)
    ]:
        if child is None:
            yield dataset
        else:
            yield from leaf_datasets(child)


def domain_counts(dataset: Dataset) -> dict[str, int]:
    """Count the images of each domain.

    Args:
        dataset: A dataset of mmengine, wrapped or not.

    Returns:
        Domain (or class name of a dataset that has none) -> number of images,
        in the order of the config.
    """
    counts = {}
    for leaf in leaf_datasets(dataset):
        name = getattr(leaf, 'domain', None) or type(leaf).__name__
        counts[name] = counts.get(name, 0) + len(leaf)
    return counts


def check_dataset(dataset: Dataset, split: str) -> None:
    """Open a dataset: build its index, check it and load its first sample.

    Args:
        dataset: A dataset of mmengine, wrapped or not.
        split: ``'train'``, ``'val'`` or ``'test'``, for the message.

    Raises:
        UserError: A dataset has no image, or verification found errors in
            it.
        Exception: Any error of the dataset or a transform on the first
            sample.
    """
    check_sampling(dataset, split)
    verified = set()
    for leaf in leaf_datasets(dataset):
        if hasattr(leaf, 'full_init'):
            leaf.full_init()
        if len(leaf) == 0:
            where = getattr(leaf, 'data_prefix', {}).get('img_path')
            where = where or getattr(leaf, 'data_root', None)
            suffix = suffix_text(getattr(leaf, 'img_suffix', ''))
            raise UserError(
                f'the {split} dataset {type(leaf).__name__} is empty: no '
                f'image {suffix} under {where}; check data_root, '
                'data_prefix and the suffixes'
            )
        # Corruption benchmarks contain the same files many times.
        if same_files(leaf) not in verified:
            check_verified(leaf, split)
        verified.add(same_files(leaf))
        if split == 'train':
            require_labels(leaf)
        elif getattr(leaf, 'part', None) is not None:
            _warn(
                f'the {split} domain {leaf.domain} is a part of its images '
                f'({len(leaf)}): its results are not those of the whole set'
            )
    check_labels(dataset, split)
    for leaf in leaf_datasets(dataset):
        leaf[0]


def write_parts(dataset: Dataset, folder: str) -> None:
    """Write which images a part of a dataset consists of.

    Args:
        dataset: Dataset of the training loop, opened.
        folder: Gets ``part_DOMAIN.txt``, which can be an ``ann_file``, for
            each dataset with ``part``; ``part_DOMAIN_2.txt`` for a second
            one of a domain.
    """
    if not is_main_process():
        return
    seen: dict[str, int] = {}
    for leaf in leaf_datasets(dataset):
        if getattr(leaf, 'part', None) is None:
            continue
        seen[leaf.domain] = seen.get(leaf.domain, 0) + 1
        number = f'_{seen[leaf.domain]}' if seen[leaf.domain] > 1 else ''
        names = [
            leaf.list_name(leaf.get_data_info(index))
            for index in range(len(leaf))
        ]
        path = os.path.join(folder, f'part_{leaf.domain}{number}.txt')
        with atomic_path(path) as temporary:
            temporary.write_text('\n'.join(names) + '\n', encoding='utf-8')
        print_log(
            f'{leaf.domain}: the {len(names)} images of the part are listed '
            f'in {path} (hash {hash_text(*names)[:12]})',
            logger='current',
        )


def require_labels(dataset: Dataset) -> None:
    """Refuse to train on a dataset without label files.

    A test predicts such images; in training each head would fail with a
    different error.

    Args:
        dataset: Innermost dataset, opened.

    Raises:
        UserError: Its pipeline reads labels, but it has none.
    """
    prefix = getattr(dataset, 'data_prefix', None) or {}
    # A generated image set lists its labels in its manifest.
    labelled = getattr(dataset, 'has_labels', prefix.get('seg_map_path'))
    steps = getattr(getattr(dataset, 'pipeline', None), 'transforms', [])
    reads = any(type(step).__name__ == 'LoadSegLabels' for step in steps)
    if reads and not labelled:
        raise UserError(
            f'the train dataset {type(dataset).__name__} '
            f'({getattr(dataset, "domain", None)}) has no label folder; give '
            'data_prefix=dict(img_path=..., seg_map_path=...)'
        )


def check_labels(dataset: Dataset, split: str) -> None:
    """Check the label ids of datasets before training or testing.

    All labels of a small dataset are read, of a large one as many as a few
    seconds allow. Statistics of an earlier verification are reused.

    Args:
        dataset: Dataset of a loop, opened.
        split: ``'train'``, ``'val'`` or ``'test'``.

    Raises:
        UserError: A label has an id that its dataset does not define, or a
            class can only be the id 255, which is ignored.
    """
    seen, leaves = set(), []
    for leaf in leaf_datasets(dataset):
        own = split == 'train' or isinstance(leaf, FolderDataset)
        if own and has_report(leaf) and leaf.has_labels:
            if same_files(leaf) not in seen:
                leaves.append(leaf)
            seen.add(same_files(leaf))
    found = []
    if is_main_process():
        try:
            found = [_label_findings(leaf, split) for leaf in leaves]
        except UserError as error:
            # Raised below in all processes: the others are waiting.
            found = error
    shared = [found]
    broadcast_object_list(shared)
    found = shared[0]
    if isinstance(found, UserError):
        raise found
    for index, (leaf, (absent, findings)) in enumerate(
        zip(leaves, found, strict=True)
    ):
        others = [a for i, (a, _) in enumerate(found) if i != index]
        for finding in findings:
            name = f'the {split} dataset {type(leaf).__name__} ({leaf.domain})'
            text = f'{name}: {finding.message}'
            if finding.is_error:
                raise UserError(text)
            # Another training dataset may contain the class.
            if finding.kind == 'absent' and any(
                not set(absent) & set(other) for other in others
            ):
                continue
            _warn(text)


def _warn(message):
    """Log a warning and repeat it with the results."""
    print_log(message, logger='current', level=logging.WARNING)
    keep_for_results(message)


def _label_findings(leaf, split):
    """Return the absent classes and the findings about the labels."""
    report = report_of(leaf)
    if report is not None and sum(report.pixels):
        count = LabelCount.of_classes(
            report.pixels, report.ignored, labels=report.images
        )
    else:
        report, count = None, look_at_labels(leaf)
    findings = label_findings(leaf, count, split == 'train')
    if report is not None:
        # Errors found by verification have been fixed or accepted.
        known = {f.kind for f in report.findings}
        findings = [
            f for f in findings if not f.is_error or f.kind not in known
        ]
    return absent_classes(leaf, count), findings


def check_sampling(dataset: Dataset, split: str) -> None:
    """Refuse ``rare_class`` and shares where the sampler ignores them.

    Args:
        dataset: Dataset of a loop, wrapped or not.
        split: ``'train'``, ``'val'`` or ``'test'``, for the message.

    Raises:
        UserError: A dataset has ``rare_class``, or is a
            :class:`LabelledSources`, and is not a group of a KeyedDataset.
    """
    groups: list[Dataset] = []
    if isinstance(dataset, KeyedDataset):
        groups = list(dataset.datasets)
    for part in _parts(dataset):
        if isinstance(part, LabelledSources) and not any(
            part is group for group in groups
        ):
            raise UserError(
                f'the {split} dataset is a LabelledSources, or has one '
                'inside: its shares work for training with '
                "train_cfg.type='ExactTrainLoop' or 'SelfTrainingLoop', on a "
                'dataset that no other one wraps; for anything else take '
                'ConcatDataset'
            )
    sources = [g for g in groups if isinstance(g, LabelledSources)]
    groups += [dataset for source in sources for dataset in source.datasets]
    drawn = [g.dataset for g in groups if isinstance(g, RareClassDataset)]
    for leaf in leaf_datasets(dataset):
        has_option = getattr(leaf, 'rare_class', None) is not None
        if has_option and not any(leaf is group for group in drawn):
            raise UserError(
                f'the {split} dataset {type(leaf).__name__} ({leaf.domain}) '
                'has rare_class, which works for training with '
                "train_cfg.type='ExactTrainLoop' or 'SelfTrainingLoop', on a "
                'dataset that no other one wraps; remove rare_class or '
                'change that'
            )


def _parts(dataset: Dataset) -> Iterator[Dataset]:
    """Yield a dataset and all that are inside of it."""
    yield dataset
    for child in getattr(dataset, 'datasets', None) or [
        getattr(dataset, 'dataset', None)
    ]:
        if child is not None:
            yield from _parts(child)


def check_verified(dataset: Dataset, split: str) -> None:
    """Refuse a dataset in which verification found errors.

    A dataset that was never verified passes. Files that have changed since
    are a warning.

    Args:
        dataset: Innermost dataset, opened.
        split: ``'train'``, ``'val'`` or ``'test'``, for the message.

    Raises:
        UserError: There are errors that are neither fixed nor accepted.
    """
    report = report_of(dataset)
    if report is None:
        return
    errors = errors_of(report, dataset)
    path = report_path(report.root)
    name = f'the {split} dataset {type(dataset).__name__} ({dataset.domain})'
    if errors:
        lines = [f'  {error.message}' for error in errors[:_MAX_LISTED]]
        if len(errors) > _MAX_LISTED:
            lines.append(f'  and {len(errors) - _MAX_LISTED} more')
        raise UserError(
            f'{name} has {counted(len(errors), "error")}, neither fixed nor '
            f'accepted, found on {report.when} ({path}):\n'
            + '\n'.join([*lines, advice_text([report], report.command)])
        )
    changed = changes_since(report, dataset) if is_main_process() else 0
    if changed:
        _warn(
            f'{name}: {counted(changed, "file")} new or changed since it was '
            f'verified on {report.when}; verify it again: {report.command}'
        )


def packed_domain(dataset: Dataset) -> str | None:
    """Return the domain in the metainfo of a dataset's samples.

    Args:
        dataset: Innermost dataset.

    Returns:
        None if it is set per sample, or if the last transform omits it.
    """
    domain = getattr(dataset, 'domain', None)
    for step in steps_of(getattr(dataset, 'pipeline', None) or []):
        if isinstance(step, PackDGInputs):
            domain = step.domain or domain
        elif isinstance(step, PackSegInputs):
            domain = domain if 'domain' in step.meta_keys else None
    return domain


def check_domains(
    dataset: Dataset, metrics: list[BaseMetric], split: str
) -> None:
    """Compare the domains of datasets with those a metric expects.

    Args:
        dataset: The dataset of a validation or test loop.
        metrics: Metrics of the same loop.
        split: ``'val'`` or ``'test'``, for the message.

    Raises:
        UserError: A dataset has a domain that a metric does not list, hands
            on none, or shares one with another dataset.
    """
    leaves = list(leaf_datasets(dataset))
    found = [packed_domain(leaf) for leaf in leaves]
    for metric in metrics:
        if not hasattr(metric, 'domains'):
            continue
        for leaf, domain in zip(leaves, found, strict=True):
            if domain is None and hasattr(leaf, 'domain'):
                raise UserError(
                    f'the pipeline of the {split} dataset '
                    f'{type(leaf).__name__} ({leaf.domain}) does not hand on '
                    f'the domain, by which {type(metric).__name__} sorts '
                    "results; end it with dict(type='PackDGInputs')"
                )
        named = [domain for domain in found if domain]
        allowed = metric.domains
        unknown = [d for d in named if allowed and d not in allowed]
        if unknown:
            raise UserError(
                f'the {split} datasets have the domain {unknown[0]!r}, but '
                f'{split}_evaluator.domains is {list(allowed)}; add it '
                'there or correct the domain of the dataset'
            )
        _refuse_equal_domains(named, metric, split)


def _refuse_equal_domains(domains, metric, split):
    """Refuse equal domains, whose results or files would be merged."""
    joined = getattr(metric, 'joined_domains', ())
    known = {}
    for domain in domains:
        # Folder names are case-insensitive on macOS and Windows.
        other = known.get(domain.casefold())
        known[domain.casefold()] = domain
        if other is None or (other == domain and domain in joined):
            continue
        if other != domain:
            raise UserError(
                f'the {split} datasets have the domains {other!r} and '
                f'{domain!r}, which differ in case only: their files would '
                'become one on some disks; rename one of them'
            )
        raise UserError(
            f'two {split} datasets have the domain {domain!r}: give each a '
            'domain of its own, or count them as one on purpose with '
            f'{split}_evaluator.joined_domains=[{domain!r}]'
        )


def check_classes(dataset: Dataset, model: nn.Module, split: str) -> None:
    """Compare the classes of a dataset with the outputs of a model.

    Args:
        dataset: A dataset with metainfo.
        model: A segmentor.
        split: ``'train'``, ``'val'`` or ``'test'``, for the message.

    Raises:
        UserError: Their numbers differ, or a head of MMSegmentation has one.
    """
    classes = getattr(dataset, 'metainfo', {}).get('classes')
    head = getattr(model, 'decode_head', None)
    outputs = getattr(head, 'num_classes', None)
    if classes and outputs and len(classes) != outputs:
        raise UserError(
            f'the {split} dataset has {len(classes)} classes, but '
            f'model.decode_head.num_classes is {outputs}; make them equal'
        )
    if outputs == 1 and isinstance(head, BaseDecodeHead):
        raise UserError(
            f'{type(head).__name__} of MMSegmentation predicts 1 for its only '
            'class, whose label is 0: every score would be wrong. Give the '
            "dataset two classes, such as classes=['background', "
            f'{str(classes[0] if classes else "thing")!r}], and '
            'model.decode_head.num_classes=2, out_channels=1; or take '
            'CLOUDSHead'
        )


def check_ignored(
    dataset: Dataset, model: nn.Module, metrics: list[BaseMetric], split: str
) -> None:
    """Compare the ignore index of labels, loss, padding and metric.

    Args:
        dataset: Dataset of a loop, wrapped or not.
        model: A segmentor.
        metrics: Metrics of the loop.
        split: ``'train'``, ``'val'`` or ``'test'``, for the message.

    Raises:
        UserError: One of them ignores another index than 255, the label of
            unlabelled pixels in the datasets of this package.
    """
    if not any(isinstance(leaf, DGDataset) for leaf in leaf_datasets(dataset)):
        return
    found = {}
    if split == 'train':
        head = getattr(model, 'decode_head', None)
        padding = getattr(model, 'data_preprocessor', None)
        found['model.decode_head.ignore_index'] = getattr(
            head, 'ignore_index', None
        )
        found['model.data_preprocessor.seg_pad_val'] = getattr(
            padding, 'seg_pad_val', None
        )
    for metric in metrics:
        found[f'{split}_evaluator.ignore_index'] = getattr(
            metric, 'ignore_index', None
        )
    for option, value in found.items():
        if type(value) is int and value != IGNORE:
            raise UserError(
                f'{option} is {value}, but pixels without class are {IGNORE} '
                f'in the {split} labels: they would count as a class, and '
                f'those of class {value} as nothing; leave the option out'
            )


def check_same_classes(trained: Dataset, tested: Dataset, split: str) -> None:
    """Compare the classes of training with those of another loop, in order.

    The same number of classes in another order raises no error elsewhere and
    gives wrong results.

    Args:
        trained: Dataset of the training loop, opened.
        tested: Dataset of another loop, opened.
        split: ``'val'`` or ``'test'``, for the message.

    Raises:
        UserError: They differ.
    """
    ours, theirs = (
        list(getattr(dataset, 'metainfo', {}).get('classes') or [])
        for dataset in (trained, tested)
    )
    if (
        ours
        and theirs
        and list(map(_normalized, ours)) != list(map(_normalized, theirs))
    ):
        first = next(
            i
            for i, pair in enumerate(
                itertools.zip_longest(ours, theirs, fillvalue='')
            )
            if _normalized(pair[0]) != _normalized(pair[1])
        )
        raise UserError(
            f'the classes of the {split} dataset differ from those of the '
            f'train dataset: class {first} is {theirs[first : first + 1]} '
            f'there and {ours[first : first + 1]} in training; give both the '
            'same names in the same order'
        )


def _normalized(name):
    """Return a class name in lower case with blanks as separators."""
    return name.lower().replace('_', ' ').replace('-', ' ').strip()


def check_overlap(
    trained: Dataset, tested: Dataset, metrics: list[BaseMetric], split: str
) -> None:
    """Warn about training images and domains that are evaluated as unseen.

    A dataset whose domain is in ``source_domains`` of the metric is reported
    but excluded from the mean.

    Args:
        trained: Dataset of the training loop, opened.
        tested: Dataset of another loop, opened.
        metrics: Metrics of that loop.
        split: ``'val'`` or ``'test'``, for the message.
    """
    if not is_main_process():
        return
    sources = {
        domain
        for metric in metrics
        for domain in getattr(metric, 'source_domains', None) or ()
    }
    means = any(hasattr(metric, 'source_domains') for metric in metrics)
    leaves = [leaf for leaf in leaf_datasets(trained) if has_report(leaf)]
    images = set().union(*map(_image_files, leaves))
    domains = {leaf.domain for leaf in leaves}
    for leaf in leaf_datasets(tested):
        if not has_report(leaf) or leaf.domain in sources:
            continue
        mine = _image_files(leaf)
        shared = sorted(mine & images)
        advice = f'{split}_evaluator.source_domains=[{leaf.domain!r}]'
        if shared:
            _warn(
                f'{len(shared)} of {len(mine)} images of the {split} domain '
                f'{leaf.domain} are images of training, for example '
                f'{shared[0]}: its result says how well the model fits, not '
                f'how well it generalises. If that is meant: {advice}'
            )
        elif means and leaf.domain in domains:
            _warn(
                f'the domain {leaf.domain} is trained on, and the {split} '
                'mean counts it among the unseen ones; to report it beside '
                f'the mean: {advice}'
            )


def _image_files(leaf):
    """Return image paths of a dataset, with links in folders resolved."""
    folders, found = {}, set()
    for index in range(len(leaf)):
        path = leaf.get_data_info(index)['img_path']
        folder, name = os.path.split(path)
        if folder not in folders:
            local = '://' not in folder
            folders[folder] = os.path.realpath(folder) if local else folder
        found.add(os.path.join(folders[folder], name))
    return found
