"""IoU over many domains in one pass."""

import math
from pathlib import Path

import numpy as np
import torch
from mmengine.logging import MMLogger, print_log
from mmseg.evaluation import IoUMetric
from mmseg.registry import METRICS
from PIL import Image

from clouds_mmseg.evaluation.tables import class_table, domain_table
from clouds_mmseg.utils.atomic import atomic_path
from clouds_mmseg.utils.errors import UserError


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
      domains, each with equal weight, whatever its number of images.

    A class that occurs neither in the labels nor in the predictions (on
    labelled pixels) of a domain has no IoU (NaN) and is left out of that
    domain's mean. A class that is predicted but never labelled counts as 0.
    Both are the rules of mmseg and of cityscapesscripts
    (``evalPixelLevelSemanticLabeling.getIouScoreForLabel``).

    After an evaluation ``last_results`` (dict, main process only) holds
    ``protocol``, ``classes``, ``mean`` (name -> value) and ``domains``:
    domain -> ``images`` (int), ``metrics`` (name -> value), ``class_iou``
    (class -> value, NaN as None) and ``confusion`` (rows labels, columns
    predictions, pixels).

    Args:
        domains (Sequence[str], optional): The domains that may occur. None
            allows all.
        class_subsets (dict[str, Sequence[str]], optional): Name -> classes
            over which a further mean is taken, for example ``'16'`` for the
            classes of SYNTHIA.
        protocol (str): Name of the evaluation protocol; only recorded.
        class_keys (bool): Return ``<domain>/IoU.<class>`` too. The tables and
            ``last_results`` have them in any case.
        **kwargs: Arguments of :class:`mmseg.evaluation.IoUMetric`. With
            ``output_dir``, predictions are written to
            ``output_dir/<domain>/<image name>.png`` (class indices).

    Raises:
        UserError: A sample has no domain or one that is not in ``domains``,
            a subset names an unknown class, or a label is outside the
            classes.
    """

    def __init__(
        self,
        *,
        domains=None,
        class_subsets=None,
        protocol='clouds',
        class_keys=True,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.domains = list(domains) if domains is not None else None
        self.class_subsets = dict(class_subsets or {})
        self.protocol = protocol
        self.class_keys = class_keys
        self.last_results = {}

    def process(self, data_batch, data_samples):
        """Count the pixels of a batch.

        Args:
            data_batch (dict): Not used.
            data_samples (Sequence[dict]): ``pred_sem_seg`` and
                ``gt_sem_seg`` with ``data`` (1, H, W) integer, and
                ``domain``.
        """
        for sample in data_samples:
            domain = self._domain(sample)
            before = len(self.results)
            folder, self.output_dir = self.output_dir, None
            try:
                super().process(data_batch, [sample])
            finally:
                self.output_dir = folder
            # Nothing was counted when only the files are asked for.
            self.results[before:] = [
                (domain, confusion) for (confusion,) in self.results[before:]
            ]
            if folder is not None:
                self._write_prediction(sample, Path(folder) / domain)

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
    def intersect_and_union(pred_label, label, num_classes, ignore_index):
        """Count one image: exact integers instead of mmseg's float32.

        Args:
            pred_label (torch.Tensor): (H, W), integer, class indices.
            label (torch.Tensor): (H, W), integer, class indices.
            num_classes (int): Number of classes.
            ignore_index (int): Label of pixels that do not count.

        Returns:
            tuple[torch.Tensor]: One (num_classes, num_classes) int64 matrix
            on the CPU: rows labels, columns predictions, pixels.
        """
        counted = label != ignore_index
        label = label[counted].long()
        pred_label = pred_label[counted].long()
        for name, values in (('label', label), ('prediction', pred_label)):
            if values.numel() and not 0 <= values.min() <= values.max() < (
                num_classes
            ):
                raise UserError(
                    f'DGIoUMetric: a {name} holds class indices '
                    f'{int(values.min())}..{int(values.max())}, but there are '
                    f'{num_classes} classes (ignored: {ignore_index})'
                )
        cells = torch.bincount(
            label * num_classes + pred_label, minlength=num_classes**2
        )
        return (cells.reshape(num_classes, num_classes).cpu(),)

    @staticmethod
    def _write_prediction(sample, folder):
        mask = sample['pred_sem_seg']['data'].squeeze().cpu().numpy()
        name = Path(sample['img_path']).with_suffix('.png').name
        with atomic_path(folder / name) as temporary:
            Image.fromarray(mask.astype(np.uint8)).save(temporary)

    def compute_metrics(self, results):
        """Compute all values and log the tables.

        Args:
            results (list[tuple[str, torch.Tensor]]): Domain and confusion
                matrix of each image, duplicates of distributed samplers
                already dropped.

        Returns:
            dict[str, float]: See the class.
        """
        if self.format_only:
            return super().compute_metrics(results)
        logger = MMLogger.get_current_instance()
        grouped = {}
        for domain, confusion in results:
            grouped.setdefault(domain, []).append(confusion)
        self._warn_about_absent(grouped, logger)
        order = self.domains or sorted(grouped)
        reports = {
            domain: self._report(torch.stack(grouped[domain]))
            for domain in order
            if domain in grouped
        }
        names = (
            list(next(iter(reports.values()))['metrics']) if reports else []
        )
        mean = {
            name: float(
                np.mean([r['metrics'][name] for r in reports.values()])
            )
            for name in names
        }
        classes = list(self.dataset_meta['classes'])
        self.last_results = dict(
            protocol=self.protocol,
            classes=classes,
            mean=mean,
            domains=reports,
        )
        print_log(
            f'Results by domain, percent (protocol {self.protocol}):\n'
            + domain_table(reports, mean)
            + '\nIoU by class and domain, percent (-: the class does not '
            'occur):\n' + class_table(reports, classes),
            logger=logger,
        )
        return self._flatten(reports, mean)

    def _report(self, confusions):
        """Reduce the matrices (N, C, C) int64 of a domain's images."""
        confusion = confusions.sum(0)
        classes = list(self.dataset_meta['classes'])
        label = confusion.sum(1).double()
        predicted = confusion.sum(0).double()
        intersect = confusion.diag().double()
        values = self.total_area_to_metrics(
            intersect,
            label + predicted - intersect,
            predicted,
            label,
            self.metrics,
            self.nan_to_num,
            self.beta,
        )
        metrics = {}
        for name, value in values.items():
            key = name if name == 'aAcc' else f'm{name}'
            metrics[key] = _mean(value)
        report = dict(images=len(confusions), metrics=metrics)
        if 'IoU' in values:
            iou = dict(zip(classes, values['IoU'] * 100, strict=True))
            for name, subset in self.class_subsets.items():
                metrics[f'mIoU_{name}'] = _mean(
                    np.array([iou[c] for c in self._known(name, subset)]) / 100
                )
            report['class_iou'] = {
                name: None if math.isnan(value) else float(value)
                for name, value in iou.items()
            }
        report['confusion'] = confusion.tolist()
        return report

    def _known(self, name, subset):
        unknown = [c for c in subset if c not in self.dataset_meta['classes']]
        if unknown:
            raise UserError(
                f'DGIoUMetric: class_subsets[{name!r}] names {unknown}, which '
                f'are not among the classes {self.dataset_meta["classes"]}'
            )
        return subset

    def _warn_about_absent(self, grouped, logger):
        absent = [d for d in self.domains or () if d not in grouped]
        if absent:
            print_log(
                f'No image of {", ".join(absent)} was evaluated: the mean is '
                f'over {len(grouped)} of {len(self.domains)} domains.',
                logger=logger,
                level='WARNING',
            )

    def _flatten(self, reports, mean):
        flat = {}
        for domain, report in reports.items():
            for name, value in report['metrics'].items():
                flat[f'{domain}/{name}'] = value
            if self.class_keys:
                for name, value in report.get('class_iou', {}).items():
                    flat[f'{domain}/IoU.{name}'] = (
                        math.nan if value is None else value
                    )
        flat.update({f'mean_{name}': value for name, value in mean.items()})
        return flat


def _mean(values):
    """Mean over the classes that have a value, in percent."""
    values = np.atleast_1d(values)
    values = values[~np.isnan(values)]
    return float(values.mean() * 100) if values.size else math.nan
