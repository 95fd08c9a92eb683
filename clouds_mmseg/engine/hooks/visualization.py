"""Visualization of images, labels and predictions."""

import math
import os.path as osp
from collections.abc import Sequence
from pathlib import Path

import mmcv
import numpy as np
from mmengine.dist import all_gather_object, master_only
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmseg.registry import HOOKS
from mmseg.structures import SegDataSample

from clouds_mmseg.evaluation.dg_iou_metric import DGIoUMetric
from clouds_mmseg.utils.atomic import atomic_path
from clouds_mmseg.utils.errors import UserError
from clouds_mmseg.utils.images import read_image
from clouds_mmseg.utils.output_names import OutputNames
from clouds_mmseg.utils.visualization import legend, stack, strip


@HOOKS.register_module()
class PredictionPicturesHook(Hook):
    """Write image | label | prediction of the first images of each domain.

    After a validation ``<run>/pictures/iter_<N>/`` contains
    ``<domain>/<path of the image>.png`` for every image drawn, with the path
    below the image folder, and ``overview.png`` with all of them, where
    ``<run>`` is the folder of the run's log. After a test the folder is
    ``pictures/test``. Files are written atomically.

    Args:
        per_domain: Images drawn per domain; None draws all.
        worst: Further images per domain, those with the lowest mIoU, of which
            :class:`~clouds_mmseg.evaluation.DGIoUMetric` keeps account; with
            other metrics none.
        on_val: Write during validation.
        on_test: Write during test.
        width: Maximal width of one image in a panel, pixels; smaller images
            are enlarged to at least half of it by a whole factor.
        out_dir: Folder in place of ``<run>/pictures``, and of
            ``<run>/pictures/test``.
        show: Also open a window for each panel.
        wait_time: Seconds that a window stays; 0 waits for a key.

    Raises:
        UserError: ``per_domain`` or ``width`` is not positive, or ``worst`` is
            negative.
    """

    # Rows of an overview.
    MAX_OVERVIEW = 60

    def __init__(
        self,
        *,
        per_domain: int | None = 2,
        worst: int = 2,
        on_val: bool = True,
        on_test: bool = True,
        width: int = 512,
        out_dir: str | None = None,
        show: bool = False,
        wait_time: float = 0.0,
    ):
        if per_domain is not None and per_domain < 1:
            raise UserError(f'per_domain must be at least 1, got {per_domain}')
        if worst < 0:
            raise UserError(f'worst must be at least 0, got {worst}')
        if width < 1:
            raise UserError(f'width must be positive, got {width}')
        self.per_domain = per_domain
        self.worst = worst
        self.on_val = on_val
        self.on_test = on_test
        self.width = width
        self.out_dir = out_dir
        self.show = show
        self.wait_time = wait_time
        self._counts = {}
        self._rows = []
        # Domain -> (mIoU, name, row), the lowest first.
        self._worst: dict[str, list[tuple]] = {}
        self._meta: dict = {}
        self._names = OutputNames()

    def before_val_epoch(self, runner: Runner) -> None:
        """Reset the panels of the last validation."""
        self._begin(runner.val_loop)

    def before_test_epoch(self, runner: Runner) -> None:
        """Reset the panels of the last test."""
        self._begin(runner.test_loop)

    def _begin(self, loop):
        self._counts, self._rows, self._worst = {}, [], {}
        # From the dataset: only the main process has a visualizer with it.
        self._meta = loop.dataloader.dataset.metainfo

    def after_val_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: dict | None = None,
        outputs: Sequence[SegDataSample] | None = None,
    ) -> None:
        """Draw the samples of a batch whose domains need more panels.

        Args:
            outputs: With ``pred_sem_seg``, ``img_path`` and, if there is a
                label, ``gt_sem_seg``.
        """
        if self.on_val:
            self._draw(runner, self._val_folder(runner), outputs)
            self._keep_worst(runner.val_loop, outputs)

    def after_test_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: dict | None = None,
        outputs: Sequence[SegDataSample] | None = None,
    ) -> None:
        """Draw the samples of a batch whose domains need more panels.

        Args:
            outputs: See :meth:`after_val_iter`.
        """
        if self.on_test:
            self._draw(runner, self._folder(runner, 'test'), outputs)
            self._keep_worst(runner.test_loop, outputs)

    def after_val_epoch(
        self, runner: Runner, metrics: dict | None = None
    ) -> None:
        """Write the overview of a validation."""
        if self.on_val:
            self._write_worst(self._val_folder(runner))
            self._overview(runner, self._val_folder(runner))

    def after_test_epoch(
        self, runner: Runner, metrics: dict | None = None
    ) -> None:
        """Write the overview of a test."""
        if self.on_test:
            self._write_worst(self._folder(runner, 'test'))
            self._overview(runner, self._folder(runner, 'test'))

    def _folder(self, runner, name):
        if self.out_dir is not None and name == 'test':
            return Path(self.out_dir)
        root = self.out_dir or osp.join(runner.log_dir, 'pictures')
        return Path(root) / name

    def _val_folder(self, runner):
        name = f'iter_{runner.iter}' if runner.is_training else 'val'
        return self._folder(runner, name)

    @master_only
    def _draw(self, runner, folder, outputs):
        """Write a panel for each sample until a domain has ``per_domain``."""
        for sample in outputs:
            domain = sample.get('domain', 'images')
            count = self._counts.get(domain, 0)
            if self.per_domain is not None and count >= self.per_domain:
                continue
            self._counts[domain] = count + 1
            row = self._panel(sample, domain)
            name = self._names.of(sample)
            drawing = self._write(folder / name, row)
            if self.show:
                runner.visualizer.show(
                    np.asarray(drawing), name, wait_time=self.wait_time
                )
            if len(self._rows) < self.MAX_OVERVIEW:
                self._rows.append(row)

    def _write(self, path, row):
        """Write a panel with the legend below; return the drawing."""
        drawing = stack([row, self._legend(row.width)])
        with atomic_path(path) as temporary:
            drawing.save(temporary)
        return drawing

    def _legend(self, width):
        return legend(self._meta['classes'], self._meta['palette'], width)

    def _keep_worst(self, loop, outputs):
        """Draw the samples that are the worst of their domain so far."""
        if self.per_domain is None or not self.worst:
            return
        for metric in loop.evaluator.metrics:
            if isinstance(metric, DGIoUMetric):
                scores = metric.latest_scores(len(outputs))
                break
        else:
            return
        for sample, score in zip(outputs, scores, strict=True):
            if score is None or 'sample_name' not in sample:
                continue
            domain = sample.get('domain', 'images')
            kept = self._worst.setdefault(domain, [])
            is_full = len(kept) == self.worst
            if math.isnan(score) or (is_full and score >= kept[-1][0]):
                continue
            name = self._names.of(sample)
            # A sampler that fills up the last batch gives an image twice.
            if any(name == other for _, other, _ in kept):
                continue
            row = self._panel(sample, domain)
            kept.append((score, name, row))
            kept.sort(key=lambda entry: entry[:2])
            del kept[self.worst :]

    def _write_worst(self, folder):
        """Write the worst panels of each domain, over all processes."""
        if self.per_domain is None or not self.worst:
            return
        ours = [
            (domain, *entry[:2])
            for domain, kept in self._worst.items()
            for entry in kept
        ]
        scores: dict[str, set] = {}
        for found in all_gather_object(ours):
            for domain, score, name in found:
                scores.setdefault(domain, set()).add((score, name))
        for domain, kept in self._worst.items():
            lowest = {name for _, name in sorted(scores[domain])[: self.worst]}
            for _, name, row in kept:
                if name in lowest and not (folder / name).is_file():
                    self._write(folder / name, row)
        self._worst = {}

    def _panel(self, sample, domain):
        prediction = sample.pred_sem_seg.data.squeeze().cpu().numpy()
        label = None
        if 'gt_sem_seg' in sample:
            label = sample.gt_sem_seg.data.squeeze().cpu().numpy()
        image = read_image(sample.img_path, sample.get('image_range'))
        height, width = prediction.shape
        if image.shape[:2] != prediction.shape:
            image = mmcv.imresize(image, (width, height))
        enlarged = width * max(1, self.width // width)
        return strip(
            image,
            label,
            prediction,
            self._meta['palette'],
            width=min(enlarged, self.width),
            caption=f'{domain}  {Path(sample.img_path).name}',
        )

    @master_only
    def _overview(self, runner, folder):
        """Write all panels of an evaluation as one image."""
        if not self._rows:
            return
        key = self._legend(max(row.width for row in self._rows))
        with atomic_path(folder / 'overview.png') as temporary:
            stack([*self._rows, key]).save(temporary)
        runner.logger.info(
            f'Visualized {sum(self._counts.values())} predictions: '
            f'{folder / "overview.png"}'
        )
        self._rows = []
