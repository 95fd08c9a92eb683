"""What can be known about the datasets before the first iteration."""

import logging

from mmengine.dist import is_main_process
from mmengine.logging import print_log
from mmseg.models.decode_heads.decode_head import BaseDecodeHead

from clouds_mmseg.datasets.rare_class_dataset import RareClassDataset
from clouds_mmseg.datasets.verify.listing import same_files
from clouds_mmseg.datasets.verify.recall import (
    changes_since,
    errors_of,
    report_of,
)
from clouds_mmseg.datasets.verify.report_file import report_path
from clouds_mmseg.datasets.verify.text import advice_text, counted
from clouds_mmseg.utils.errors import UserError

# Bad files that an error names.
_NAMED = 5


def leaf_datasets(dataset):
    """The datasets at the bottom of wrappers and concatenations.

    Args:
        dataset (Dataset): A dataset of mmengine, wrapped or not.

    Yields:
        Dataset: Each dataset that reads files itself.
    """
    for child in getattr(dataset, 'datasets', None) or [
        getattr(dataset, 'dataset', None)
    ]:
        if child is None:
            yield dataset
        else:
            yield from leaf_datasets(child)


def domain_counts(dataset):
    """Number of images of each domain.

    Args:
        dataset (Dataset): A dataset of mmengine, wrapped or not.

    Returns:
        dict[str, int]: Domain (or class name of a dataset that has none)
        -> number of images, in the order of the config.
    """
    counts = {}
    for leaf in leaf_datasets(dataset):
        name = getattr(leaf, 'domain', None) or type(leaf).__name__
        counts[name] = counts.get(name, 0) + len(leaf)
    return counts


def check_dataset(dataset, split):
    """Open a dataset once: its index, its count, its first image.

    Args:
        dataset (Dataset): A dataset of mmengine, wrapped or not.
        split (str): ``'train'``, ``'val'`` or ``'test'``, for the message.

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
            suffix = getattr(leaf, 'img_suffix', '')
            raise UserError(
                f'the {split} dataset {type(leaf).__name__} is empty: no '
                f'image *{suffix} under {where}; check data_root, '
                'data_prefix and the suffixes'
            )
        # A test of corruptions reads the same files many times.
        if same_files(leaf) not in verified:
            check_verified(leaf, split)
        verified.add(same_files(leaf))
        if split == 'train':
            require_labels(leaf)
        leaf[0]


def require_labels(dataset):
    """Refuse to train on images whose labels nobody reads.

    A test predicts such images; in training each head has another error.

    Args:
        dataset (Dataset): At the bottom of all wrappers, opened.

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


def require_keyed_rare_class(dataset, split):
    """Refuse rare_class where nothing would see to it.

    Args:
        dataset (Dataset): Of a loop, wrapped or not.
        split (str): ``'train'``, ``'val'`` or ``'test'``, for the message.

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


def check_verified(dataset, split):
    """Refuse a dataset in which verification found errors.

    A dataset that was never verified passes. Files that have changed since
    are a warning.

    Args:
        dataset (Dataset): At the bottom of all wrappers, opened.
        split (str): ``'train'``, ``'val'`` or ``'test'``, for the message.

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
        print_log(
            f'{name}: {counted(changed, "file")} new or changed since it was '
            f'verified on {report.when}; verify it again: {report.command}',
            logger='current',
            level=logging.WARNING,
        )


def check_domains(dataset, metrics, split):
    """Compare the domains of a dataset with those a metric expects.

    Args:
        dataset (Dataset): The dataset of a validation or test loop.
        metrics (list[BaseMetric]): Metrics of the same loop.
        split (str): ``'val'`` or ``'test'``, for the message.

    Raises:
        UserError: A dataset has a domain that a metric does not list.
    """
    found = [
        leaf.domain
        for leaf in leaf_datasets(dataset)
        if getattr(leaf, 'domain', None)
    ]
    for metric in metrics:
        allowed = getattr(metric, 'domains', None)
        unknown = [d for d in found if allowed and d not in allowed]
        if unknown:
            raise UserError(
                f'the {split} datasets have the domain {unknown[0]!r}, but '
                f'{split}_evaluator.domains is {list(allowed)}; add it '
                'there or correct the domain of the dataset'
            )


def check_classes(dataset, model, split):
    """Compare the classes of a dataset with the outputs of a model.

    Args:
        dataset (Dataset): A dataset with metainfo.
        model (nn.Module): A segmentor.
        split (str): ``'train'``, ``'val'`` or ``'test'``, for the message.

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
