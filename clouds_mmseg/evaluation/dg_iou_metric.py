"""IoU of several domains in one evaluation."""

import logging
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.logging import MMLogger, print_log
from mmseg.evaluation import IoUMetric
from mmseg.registry import METRICS
from PIL import Image

from clouds_mmseg.utils.atomic import atomic_path
from clouds_mmseg.utils.errors import UserError
from clouds_mmseg.utils.finite import listed
from clouds_mmseg.utils.options import name_list
from clouds_mmseg.utils.output_names import OutputNames
from clouds_mmseg.utils.result_warnings import warn_about_results
from clouds_mmseg.utils.tables import format_table, percent_cell


@METRICS.register_module()
class DGIoUMetric(IoUMetric):
    """mmseg's ``IoUMetric``, grouped by the domain of each sample.

    The domain is read from the sample's metainfo, never from a path. Values
    are percentages and not rounded (mmseg rounds to two decimals). Returned:

    - ``<domain>/mIoU``, ``<domain>/aAcc`` (and ``mAcc``; with other
      ``iou_metrics`` their values): of the pixels of all images of a domain;
    - ``<domain>/IoU.<class>``;
    - ``<domain>/mIoU_<name>`` for each entry of ``class_subsets``;
    - ``mean_mIoU``, ``mean_aAcc``, ``mean_mIoU_<name>``: the mean over
      domains (without ``source_domains``), each with equal weight, whatever
      its number of images.

    A class that occurs neither in the labels nor in the predictions (on
    labelled pixels) of a domain has no IoU (NaN) and is left out of that
    domain's mean. A class that is predicted but never labelled counts as 0.
    Both are the rules of mmseg and of cityscapesscripts
    (``evalPixelLevelSemanticLabeling.getIouScoreForLabel``).

    Images without labels are allowed with ``output_dir``: their predictions
    are written, and the log says that they were not compared. Without
    ``output_dir`` they are an error.

    With a single class all other pixels are background: a pixel of
    ``ignore_index`` on which the class is predicted is a false positive, and
    IoU is over the whole image. (Otherwise predicting the class everywhere
    would score 100.)

    After an evaluation ``last_results`` (dict, main process only) holds
    ``protocol``, ``classes``, ``mean`` (name -> value) and ``domains``: domain
    -> ``images`` (int), ``metrics`` (name -> value), ``class_iou`` (class ->
    value, NaN as None), ``absent_classes`` (those in no label),
    ``images_without_labels`` (int; every pixel is ignored) and ``confusion``
    (rows labels, columns predictions, pixels). Images and classes that the
    values do not cover are logged and recorded as warnings. ``last_images``
    lists the images that were compared: ``domain``, ``name`` (of the dataset's
    ``sample_name``, or None), ``path`` and the values of
    :func:`~clouds_mmseg.evaluation.dg_iou_metric.image_scores`.

    Args:
        domains: The domains that may occur. None allows all.
        source_domains: Domains the model was trained on. They are reported,
            but the mean is over the others.
        class_subsets: Name -> classes over which a further mean is taken, for
            example ``'16'`` for the classes of SYNTHIA.
        protocol: Name of the evaluation protocol; only recorded.
        joined_domains: Domains that several test sets may have: their pixels
            are counted together. Without it two sets of one domain are an
            error before the test.
        **kwargs: Arguments of :class:`mmseg.evaluation.IoUMetric`. With
            ``output_dir``, predictions are written to
            ``output_dir/<domain>/<path of the image>.png`` (class indices),
            the path being that below the image folder.

    Raises:
        UserError: A sample has no domain or one that is not in ``domains``, a
            subset names an unknown class, or a label is outside the classes.
    """

    def __init__(
        self,
        *,
        domains: Sequence[str] | None = None,
        source_domains: Sequence[str] = (),
        class_subsets: dict[str, Sequence[str]] | None = None,
        protocol: str = 'clouds',
        joined_domains: Sequence[str] = (),
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self.domains = (
            name_list(domains, 'domains') if domains is not None else None
        )
        self.source_domains = name_list(source_domains, 'source_domains')
        self.joined_domains = name_list(joined_domains, 'joined_domains')
        self.class_subsets = {
            name: name_list(subset, f'class_subsets[{name!r}]')
            for name, subset in (class_subsets or {}).items()
        }
        self._names = OutputNames()
        self.protocol = protocol
        self.last_results = {}
        self.last_images: list[dict] = []
        self._expected: int | None = None

    @IoUMetric.dataset_meta.setter
    def dataset_meta(self, dataset_meta: dict) -> None:
        """Set the classes, and check the class subsets.

        mmengine sets this when it builds the loop, so that a wrong name is
        reported before training.
        """
        for name, subset in self.class_subsets.items():
            unknown = [c for c in subset if c not in dataset_meta['classes']]
            if unknown:
                raise UserError(
                    f'DGIoUMetric: class_subsets[{name!r}] names {unknown}, '
                    'which are not among the classes: '
                    + ', '.join(dataset_meta['classes'])
                )
        self._dataset_meta = dataset_meta

    def process(self, data_batch: dict, data_samples: Sequence[dict]) -> None:
        """Compute the confusion matrices of a batch.

        Args:
            data_samples: ``pred_sem_seg`` and ``gt_sem_seg`` with ``data``
                (1, H, W) integer, and ``domain``.
        """
        for sample in data_samples:
            domain = self._domain(sample)
            if 'gt_sem_seg' not in sample and not self.format_only:
                self._process_unlabelled(sample, domain)
                continue
            before = len(self.results)
            folder, self.output_dir = self.output_dir, None
            try:
                super().process(data_batch, [sample])
            finally:
                self.output_dir = folder
            # Empty with format_only.
            name = sample.get('sample_name')
            path = sample.get('img_path')
            self.results[before:] = [
                (domain, confusion, (name, path))
                for (confusion,) in self.results[before:]
            ]
            if folder is not None:
                self._write_prediction(
                    sample, Path(folder) / self._names.of(sample)
                )

    def latest_scores(self, count: int) -> list[float | None]:
        """Return the mIoU of the images that this process compared last.

        Args:
            count: Of the last batch, number of images.

        Returns:
            Of each the mIoU in percent, NaN if its label is empty; None for
            an image without a label, and for all with ``format_only``.
        """
        latest = self.results[-count:]
        if len(latest) < count:
            return [None] * count
        classes = len(self.dataset_meta['classes'])
        return [
            None
            if confusion is None
            else image_scores(confusion, classes)['mIoU']
            for _, confusion, _ in latest
        ]

    def _process_unlabelled(self, sample, domain):
        """Write the prediction of an image without label."""
        if self.output_dir is None:
            raise UserError(
                f'{sample.get("img_path")} has no label (domain {domain}), '
                'so there is nothing to compare; give --out FOLDER to '
                'clouds test for the predictions, or the label folder: '
                'data_prefix.seg_map_path of the dataset, and LoadSegLabels '
                'in its pipeline'
            )
        self._write_prediction(
            sample, Path(self.output_dir) / self._names.of(sample)
        )
        # One result an image: mmengine truncates gathered results to the
        # number of images.
        self.results.append((domain, None, None))

    def _domain(self, sample):
        domain = sample.get('domain')
        if domain is None:
            raise UserError(
                f'DGIoUMetric: the sample of {sample.get("img_path")} has no '
                'domain. End the test pipeline with PackDGInputs.'
            )
        if self.domains is not None and domain not in self.domains:
            raise UserError(
                f'DGIoUMetric: unknown domain {domain!r} '
                f'({sample.get("img_path")}). Allowed by its domains=...: '
                + ', '.join(self.domains)
            )
        return domain

    @staticmethod
    def intersect_and_union(
        pred_label: torch.Tensor,
        label: torch.Tensor,
        num_classes: int,
        ignore_index: int,
    ) -> tuple[torch.Tensor, ...]:
        """Compute exact integer counts instead of mmseg's float32 areas.

        Returns:
            See :func:`confusion_matrix`, which takes the same arguments. With
            one class it has a second row and column, of the background.
        """
        if num_classes == 1:
            return (confusion_with_background(pred_label, label),)
        return (
            confusion_matrix(pred_label, label, num_classes, ignore_index),
        )

    @staticmethod
    def _write_prediction(sample, path):
        mask = sample['pred_sem_seg']['data'][0].cpu().numpy()
        with atomic_path(path) as temporary:
            # 16 bits for more than 256 classes.
            dtype = np.uint8 if mask.max(initial=0) < 256 else np.uint16
            Image.fromarray(mask.astype(dtype)).save(temporary)

    def evaluate(self, size: int) -> dict[str, float]:
        """Compute the metrics over all processes, see the class."""
        self._expected = size
        return super().evaluate(size)

    def compute_metrics(self, results: list[tuple]) -> dict[str, float]:
        """Compute the metrics and log the tables.

        Args:
            results: Of each image the domain, the confusion matrix, and name
                and path; matrix and names are None without label. Duplicates
                of distributed samplers are already dropped.

        Returns:
            See the class.
        """
        if self.format_only:
            return super().compute_metrics(results)
        logger = MMLogger.get_current_instance()
        grouped, unlabelled = {}, {}
        for domain, confusion, _ in results:
            if confusion is None:
                unlabelled[domain] = unlabelled.get(domain, 0) + 1
            else:
                grouped.setdefault(domain, []).append(confusion)
        self._log_unlabelled(unlabelled, grouped, logger)
        self.last_images = self._image_records(results)
        if not grouped and unlabelled:
            self.last_results = {}
            return {}
        order = self.domains or sorted(grouped)
        reports = {
            domain: self._report(grouped[domain])
            for domain in order
            if domain in grouped
        }
        self._warn(reports, len(results))
        mean = self._mean_over_targets(reports)
        classes = list(self.dataset_meta['classes'])
        self.last_results = dict(
            protocol=self.protocol,
            classes=classes,
            mean=mean,
            domains=reports,
        )
        print_log(self._tables(reports, mean), logger=logger)
        return self._flatten(reports, mean)

    def _image_records(self, results):
        """Return domain, name, path and scores of each compared image."""
        count = len(self.dataset_meta['classes'])
        records = []
        for domain, confusion, names in results:
            if confusion is not None:
                name, path = names
                scores = image_scores(confusion, count)
                records.append(
                    dict(domain=domain, name=name, path=path, **scores)
                )
        return records

    def _tables(self, reports, mean):
        """Return the tables of domains and of classes for the log."""
        classes = self.dataset_meta['classes']
        return (
            f'Results by domain, percent (protocol {self.protocol}):\n'
            + domain_table(reports, mean, self.source_domains)
            + '\nIoU by class and domain, percent (-: the class does not '
            'occur):\n' + class_table(reports, classes)
        )

    def _report(self, confusions):
        """Compute the report of a domain from (C, C) int64 matrices."""
        classes = self.dataset_meta['classes']
        confusion = sum(confusions)
        counted = intersect_and_union(confusion)
        # With a single class, without the background.
        counted = [area[: len(classes)] for area in counted]
        values = self.total_area_to_metrics(
            *counted, self.metrics, self.nan_to_num, self.beta
        )
        if len(classes) == 1:
            values['aAcc'] = confusion.diag().sum() / confusion.sum()
        report = dict(images=len(confusions), metrics={})
        metrics = report['metrics']
        if 'IoU' in values:
            iou = dict(zip(classes, values['IoU'].tolist(), strict=True))
            metrics['mIoU'] = mean_percent(iou.values())
            for name, subset in self.class_subsets.items():
                metrics[f'mIoU_{name}'] = mean_percent(iou[c] for c in subset)
            report['class_iou'] = {
                name: None if math.isnan(value) else value * 100
                for name, value in iou.items()
            }
        for name, value in values.items():
            key = name if name == 'aAcc' else f'm{name}'
            metrics.setdefault(key, mean_percent(np.atleast_1d(value)))
        labelled = confusion.sum(1)[: len(classes)].tolist()
        report['absent_classes'] = [
            name
            for name, count in zip(classes, labelled, strict=True)
            if not count
        ]
        report['images_without_labels'] = sum(
            not matrix.any() for matrix in confusions
        )
        report['confusion'] = confusion.tolist()
        return report

    def _mean_over_targets(self, reports):
        targets = [
            report['metrics']
            for domain, report in reports.items()
            if domain not in self.source_domains
        ]
        if not targets:
            return {}
        return {
            name: float(np.mean([metrics[name] for metrics in targets]))
            for name in targets[0]
        }

    def _log_unlabelled(self, unlabelled, grouped, logger):
        """Log the images that were predicted but not compared."""
        for domain, count in unlabelled.items():
            compared = len(grouped.get(domain, ()))
            print_log(
                f'{domain}: {count} of {count + compared} images have no '
                'label: their predictions are in '
                f'{Path(self.output_dir) / domain}, and '
                + (
                    f'the values are of the other {compared}.'
                    if compared
                    else 'there is nothing to compare.'
                ),
                logger=logger,
                level=logging.WARNING if grouped else logging.INFO,
            )

    def _warn(self, reports, count):
        """Warn of domains, images and classes that were not evaluated."""
        absent = [d for d in self.domains or () if d not in reports]
        if absent:
            warn_about_results(
                f'No image of {listed(absent)} was evaluated: the mean is '
                'over the other domains.',
                key='absent_domains',
            )
        if self._expected is not None and count < self._expected:
            warn_about_results(
                f'Only {count} of {self._expected} images were evaluated: '
                'look at drop_last and the sampler of the dataloader.',
                key='fewer_images',
            )
        blank = [
            f'{domain} {report["images_without_labels"]} of {report["images"]}'
            for domain, report in reports.items()
            if report['images_without_labels']
        ]
        if blank:
            warn_about_results(
                'Images of whose labels every pixel is ignored '
                f'({self.ignore_index}) count for nothing: {listed(blank)}.',
                key='images_without_labels',
            )
        self._warn_about_classes(reports)

    def _warn_about_classes(self, reports):
        """Warn of the model's classes that occur in no label of a domain."""
        number = len(self.dataset_meta['classes'])
        # Grouped: all corruptions of a dataset lack the same classes.
        domains_by_absent = {}
        for domain, report in reports.items():
            if report['absent_classes']:
                key = tuple(report['absent_classes'])
                domains_by_absent.setdefault(key, []).append(domain)
        if not domains_by_absent:
            return
        parts = [
            f'{listed(domains)}: {number - len(absent)} of {number} '
            f'(not {listed(list(absent))})'
            for absent, domains in domains_by_absent.items()
        ]
        warn_about_results(
            'The labels show fewer classes than the model has. '
            + '; '.join(parts)
            + '. A class that is not predicted either is left out of the '
            'mean, one that is predicted counts as 0.',
            key='absent_classes',
        )

    def _flatten(self, reports, mean):
        flat = {}
        for domain, report in reports.items():
            for name, value in report['metrics'].items():
                flat[f'{domain}/{name}'] = value
            for name, value in report.get('class_iou', {}).items():
                flat[f'{domain}/IoU.{name}'] = (
                    math.nan if value is None else value
                )
        flat.update({f'mean_{name}': value for name, value in mean.items()})
        return flat


def confusion_matrix(
    prediction: torch.Tensor,
    label: torch.Tensor,
    num_classes: int,
    ignore_index: int,
) -> torch.Tensor:
    """Compute the confusion matrix of one image.

    Args:
        prediction: (H, W), integer, class indices.
        label: (H, W), integer, class indices.
        num_classes: Number of classes.
        ignore_index: Label of pixels that are not counted.

    Returns:
        (num_classes, num_classes) int64 on the CPU: rows labels, columns
        predictions, pixels.

    Raises:
        UserError: A counted pixel is outside the classes.
    """
    counted = label != ignore_index
    label = label[counted].long()
    prediction = prediction[counted].long()
    for name, values in (('label', label), ('prediction', prediction)):
        if values.numel() and not (
            0 <= values.min() <= values.max() < num_classes
        ):
            raise UserError(
                f'a {name} to evaluate holds class indices '
                f'{int(values.min())}..{int(values.max())}, but the dataset '
                f'has {num_classes} classes (ignored: {ignore_index})'
            )
    counts = torch.bincount(
        label * num_classes + prediction, minlength=num_classes**2
    )
    return counts.reshape(num_classes, num_classes).cpu()


def confusion_with_background(
    prediction: torch.Tensor, label: torch.Tensor
) -> torch.Tensor:
    """Compute the confusion matrix of one image for a single class.

    All other pixels are background, ignored pixels too: with one class there
    is nothing else that it could be confused with.

    Args:
        prediction: (H, W), integer, 0 for the class.
        label: (H, W), integer, 0 for the class.

    Returns:
        (2, 2) int64 on the CPU: rows labels, columns predictions, of the class
        and of the background, pixels.
    """
    return confusion_matrix(
        (prediction != 0).long(), (label != 0).long(), 2, ignore_index=-1
    )


def intersect_and_union(confusion: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Reduce a confusion matrix to the arguments of mmseg's formulas.

    Args:
        confusion: (C, C) int64, rows labels.

    Returns:
        Intersection, union, predicted, labelled: each (C,) float64, pixels.
    """
    labelled = confusion.sum(1).double()
    predicted = confusion.sum(0).double()
    intersection = confusion.diag().double()
    union = labelled + predicted - intersection
    return intersection, union, predicted, labelled


def image_scores(
    confusion: torch.Tensor, num_classes: int
) -> dict[str, float]:
    """Score one image, to find those that are predicted worst.

    A class that is not in the label is left out: a few pixels of it would
    weigh as much as the whole road. These means over images are not those of a
    domain, which are of the pixels of all its images.

    Args:
        confusion: Of :func:`confusion_matrix` or
            :func:`confusion_with_background`.
        num_classes: Number of classes, without the background.

    Returns:
        ``mIoU`` (percent, over the classes that the label has; NaN without
        any) and ``aAcc`` (percent of the compared pixels that are right; NaN
        without any).
    """
    intersection, union, _, labelled = intersect_and_union(confusion)
    present = labelled[:num_classes] > 0
    iou = (intersection / union)[:num_classes][present]
    # 0 / 0 is NaN, as it should be.
    accuracy = 100 * intersection.sum() / labelled.sum()
    return dict(mIoU=mean_percent(iou.tolist()), aAcc=float(accuracy))


def mean_percent(fractions: Iterable[float]) -> float:
    """Average over the classes that have a value, in percent.

    Args:
        fractions: In [0, 1]; NaN where there is no value.

    Returns:
        In [0, 100]; NaN if no class has a value.
    """
    present = [f for f in fractions if not math.isnan(f)]
    return float(np.mean(present) * 100) if present else math.nan


def domain_table(
    reports: dict[str, dict],
    mean: dict[str, float],
    source_domains: Sequence[str] = (),
) -> str:
    """Format the metrics by domain (rows), with the mean over the targets.

    Args:
        reports: Domain -> ``images`` (int), ``metrics`` (name -> percent) and,
            where there is one, ``class_iou``, from which the number of
            classes in a mean is shown.
        mean: Name -> percent, over the domains that are not sources.
        source_domains: Domains the model was trained on.
    """
    names = list(next(iter(reports.values()))['metrics']) if reports else []
    counts = {domain: _classes_in_mean(r) for domain, r in reports.items()}
    # Shown where a mean is over fewer classes than the model has.
    partial = any(c and c[0] < c[1] for c in counts.values())
    columns = ['classes in mean'] if partial else []
    rows: list[list | None] = []
    targets = 0
    for domain, report in reports.items():
        is_source = domain in source_domains
        targets += not is_source
        cells = [percent_cell(report['metrics'][name]) for name in names]
        label = f'{domain} (source)' if is_source else domain
        if partial:
            cells.insert(0, '{} of {}'.format(*counts[domain]))
        rows.append([label, report['images'], *cells])
    if targets > 1:
        rows.append(None)
        cells = [percent_cell(mean[name]) for name in names]
        what = ' targets' if source_domains else ''
        blanks = [''] * (1 + len(columns))
        rows.append([f'mean of {targets}{what}', *blanks, *cells])
    return format_table(['domain', 'images', *columns, *names], rows)


def _classes_in_mean(report):
    """Number of classes with an IoU and of all; None without IoU."""
    values = report.get('class_iou')
    if not values:
        return None
    return sum(v is not None for v in values.values()), len(values)


def class_table(reports: dict[str, dict], classes: Sequence[str]) -> str:
    """Format IoU by class (rows) and domain (columns).

    Args:
        reports: Domain -> ``class_iou`` (class -> percent, None where the
            class does not occur).
        classes: The rows.
    """
    rows = [
        [
            name,
            *(
                percent_cell(report.get('class_iou', {}).get(name))
                for report in reports.values()
            ),
        ]
        for name in classes
    ]
    return format_table(['class', *reports], rows)
