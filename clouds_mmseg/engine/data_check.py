"""What can be known about the datasets before the first iteration."""

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
from clouds_mmseg.datasets.base import DGDataset
from clouds_mmseg.datasets.files import suffix_text
from clouds_mmseg.datasets.folder import FolderDataset
from clouds_mmseg.datasets.pipeline_check import steps_of
from clouds_mmseg.datasets.rare_classes import RareClassDataset
from clouds_mmseg.datasets.transforms import PackDGInputs
from clouds_mmseg.utils.cityscapes import IGNORE
from clouds_mmseg.utils.errors import UserError
from clouds_mmseg.utils.result_warnings import keep_for_results

# Bad files that an error names.
_NAMED = 5


def leaf_datasets(dataset: Dataset) -> Iterator[Dataset]:
    """The datasets at the bottom of wrappers and concatenations.

    Args:
        dataset: A dataset of mmengine, wrapped or not.

    Yields:
        Each dataset that reads files itself.
    """
    for child in getattr(dataset, 'datasets', None) or [
        getattr(dataset, 'dataset', None)
    ]:
        if child is None:
            yield dataset
        else:
            yield from leaf_datasets(child)


def domain_counts(dataset: Dataset) -> dict[str, int]:
    """Number of images of each domain.

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
    """Open a dataset once: its index, its count, its first image.

    Args:
        dataset: A dataset of mmengine, wrapped or not.
        split: ``'train'``, ``'val'`` or ``'test'``, for the message.

    Raises:
        UserError: A dataset has no image, or verification found errors in
            it.
        Exception: What the dataset or a transform raises on the first
            image.
    """
    require_keyed_rare_class(dataset, split)
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
        # A test of corruptions reads the same files many times.
        if same_files(leaf) not in verified:
            check_verified(leaf, split)
        verified.add(same_files(leaf))
        if split == 'train':
            require_labels(leaf)
    check_labels(dataset, split)
    for leaf in leaf_datasets(dataset):
        leaf[0]


def require_labels(dataset: Dataset) -> None:
    """Refuse to train on images whose labels nobody reads.

    A test predicts such images; in training each head has another error.

    Args:
        dataset: At the bottom of all wrappers, opened.

    Raises:
        UserError: Its pipeline reads labels, but it has none.
    """
    prefix = getattr(dataset, 'data_prefix', None) or {}
    steps = getattr(getattr(dataset, 'pipeline', None), 'transforms', [])
    reads = any(type(step).__name__ == 'LoadSegLabels' for step in steps)
    if reads and not prefix.get('seg_map_path'):
        raise UserError(
            f'the train dataset {type(dataset).__name__} '
            f'({getattr(dataset, "domain", None)}) has no label folder; give '
            'data_prefix=dict(img_path=..., seg_map_path=...)'
        )


def check_labels(dataset: Dataset, split: str) -> None:
    """Look at labels before training or testing on them.

    All labels of a small dataset are looked at, or those that a few seconds
    allow. What verification has counted is not counted again.

    Args:
        dataset: Of a loop, opened.
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
            # The other processes are waiting, and stop by it as well.
            found = error
    shared = [found]
    broadcast_object_list(shared)
    found = shared[0]
    if isinstance(found, UserError):
        raise found
    for place, (leaf, (absent, findings)) in enumerate(
        zip(leaves, found, strict=True)
    ):
        others = [a for i, (a, _) in enumerate(found) if i != place]
        for finding in findings:
            name = f'the {split} dataset {type(leaf).__name__} ({leaf.domain})'
            text = f'{name}: {finding.message}'
            if finding.is_error:
                raise UserError(text)
            # Another source of training may show the class.
            if finding.kind == 'absent' and any(
                not set(absent) & set(other) for other in others
            ):
                continue
            _warn(text)


def _warn(message):
    """Log what makes results doubtful, and keep it for their end."""
    print_log(message, logger='current', level=logging.WARNING)
    keep_for_results(message)


def _label_findings(leaf, split):
    """Return the classes that are absent, and what to say."""
    report = report_of(leaf)
    if report is not None and sum(report.pixels):
        count = LabelCount.of_classes(
            report.pixels, report.ignored, labels=report.images
        )
    else:
        report, count = None, look_at_labels(leaf)
    findings = label_findings(leaf, count, split == 'train')
    if report is not None:
        # Errors that verification has found are fixed or accepted by now.
        known = {f.kind for f in report.findings}
        findings = [
            f for f in findings if not f.is_error or f.kind not in known
        ]
    return absent_classes(leaf, count), findings


def require_keyed_rare_class(dataset: Dataset, split: str) -> None:
    """Refuse rare_class where nothing would see to it.

    Args:
        dataset: Of a loop, wrapped or not.
        split: ``'train'``, ``'val'`` or ``'test'``, for the message.

    Raises:
        UserError: A dataset has the option, and is not a group of a
            KeyedDataset.
    """
    groups = [
        group.dataset
        for group in getattr(dataset, 'datasets', None) or []
        if isinstance(group, RareClassDataset)
    ]
    for leaf in leaf_datasets(dataset):
        asked = getattr(leaf, 'rare_class', None) is not None
        if asked and not any(leaf is group for group in groups):
            raise UserError(
                f'the {split} dataset {type(leaf).__name__} ({leaf.domain}) '
                'has rare_class, which works for training with '
                "train_cfg.type='ExactTrainLoop' or 'SelfTrainingLoop', on a "
                'dataset that no other one wraps; remove rare_class or '
                'change that'
            )


def check_verified(dataset: Dataset, split: str) -> None:
    """Refuse a dataset in which verification found errors.

    A dataset that was never verified passes. Files that have changed since
    are a warning.

    Args:
        dataset: At the bottom of all wrappers, opened.
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
        lines = [f'  {error.message}' for error in errors[:_NAMED]]
        if len(errors) > _NAMED:
            lines.append(f'  and {len(errors) - _NAMED} more')
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
    """The domain that the samples of a dataset carry.

    Args:
        dataset: At the bottom of all wrappers.

    Returns:
        None where it is known for each sample only, or where the last step
        leaves it out.
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
    """Compare the domains of a dataset with those a metric expects.

    Args:
        dataset: The dataset of a validation or test loop.
        metrics: Metrics of the same loop.
        split: ``'val'`` or ``'test'``, for the message.

    Raises:
        UserError: A dataset has a domain that a metric does not list, hands
            on none, or has that of another one, whose images would be counted
            as its own.
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
    """Refuse domains whose results or files would become one."""
    joined = getattr(metric, 'joined_domains', ())
    known = {}
    for domain in domains:
        # Folders of this name are one on the disks of macOS and Windows.
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
    """Compare what is ignored: by labels, loss, padding and metric.

    Args:
        dataset: Of a loop, wrapped or not.
        model: A segmentor.
        metrics: Of the loop.
        split: ``'train'``, ``'val'`` or ``'test'``, for the message.

    Raises:
        UserError: One of them ignores another index than 255, which is what
            the datasets of this package give to pixels without class.
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

    Equal numbers of classes in another order make no error anywhere, and a
    result that is wrong.

    Args:
        trained: Of the training loop, opened.
        tested: Of another loop, opened.
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
        and list(map(_plain, ours)) != list(map(_plain, theirs))
    ):
        place = next(
            i
            for i, pair in enumerate(
                itertools.zip_longest(ours, theirs, fillvalue='')
            )
            if _plain(pair[0]) != _plain(pair[1])
        )
        raise UserError(
            f'the classes of the {split} dataset differ from those of the '
            f'train dataset: class {place} is {theirs[place : place + 1]} '
            f'there and {ours[place : place + 1]} in training; give both the '
            'same names in the same order'
        )


def _plain(name):
    """A name without case and kind of separator, which do not count."""
    return name.lower().replace('_', ' ').replace('-', ' ').strip()


def check_overlap(
    trained: Dataset, tested: Dataset, metrics: list[BaseMetric], split: str
) -> None:
    """Tell images and domains of training that count as unseen ones.

    A dataset whose domain is in ``source_domains`` of the metric is reported
    and no part of the mean: that is how to measure on the source.

    Args:
        trained: Of the training loop, opened.
        tested: Of another loop, opened.
        metrics: Of that loop.
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
    """Paths of the images of a dataset, links in folder names resolved."""
    folders, found = {}, set()
    for index in range(len(leaf)):
        path = leaf.get_data_info(index)['img_path']
        folder, name = os.path.split(path)
        if folder not in folders:
            folders[folder] = os.path.realpath(folder)
        found.add(os.path.join(folders[folder], name))
    return found
