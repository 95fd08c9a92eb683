"""Measure the teacher on images whose labels are known but unused."""

import json
from pathlib import Path

import torch
from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmseg.registry import DATASETS, HOOKS

from clouds_mmseg.engine.results_hook import to_json
from clouds_mmseg.engine.run_header import bare_model
from clouds_mmseg.engine.sam_refine_hook import SAMRefineHook
from clouds_mmseg.evaluation.confusion import (
    areas,
    confusion_matrix,
    mean_percent,
)
from clouds_mmseg.utils.atomic import atomic_path
from clouds_mmseg.utils.cityscapes import IGNORE

FILE_NAME = 'pseudo_labels.json'


@HOOKS.register_module()
class PseudoLabelAccuracyHook(Hook):
    """Compare pseudo labels, before and after refinement, with the truth.

    Measured when self-training begins and when it ends. The images come
    from a bank made with ``--keep-labels``; nothing trains on those labels.
    The numbers go to the log, the Visualizer and ``pseudo_labels.json`` in
    the work dir, by iteration.

    Args:
        dataset (dict): A ``GeneratedDataset`` with
            ``evaluation_labels=True`` whose images have one size and whose
            pipeline ends with ``LoadSegLabels``, ``KeepCleanView`` and
            ``PackDGInputs``.
        num_images (int): The first so many images of it are labelled.
        batch_size (int): Images labelled at once.

    Raises:
        ValueError: A number is not positive.
    """

    # After EMATeacherHook has copied the student or moved the teacher.
    priority = 'LOW'

    def __init__(self, dataset, *, num_images=64, batch_size=8):
        for name, value in (
            ('num_images', num_images),
            ('batch_size', batch_size),
        ):
            if value < 1:
                raise ValueError(f'{name} must be at least 1, got {value}')
        self.dataset_cfg = dataset
        self.num_images = num_images
        self.batch_size = batch_size
        self._dataset = None

    def before_train(self, runner):
        """Open the dataset, so that bad files are named at once.

        Args:
            runner (Runner): The runner.
        """
        if is_main_process() and self._begin(runner) < runner.max_iters:
            self._dataset = DATASETS.build(self.dataset_cfg)

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        """Measure the teacher that self-training begins with.

        Args:
            runner (Runner): The runner.
            batch_idx (int): Unused.
            data_batch (dict, optional): Unused.
        """
        if self._dataset is not None and runner.iter == self._begin(runner):
            self._measure(runner, runner.iter)

    def after_train_iter(
        self, runner, batch_idx, data_batch=None, outputs=None
    ):
        """Measure the teacher that self-training ends with.

        Args:
            runner (Runner): The runner.
            batch_idx (int): Unused.
            data_batch (dict, optional): Unused.
            outputs (dict, optional): Unused.
        """
        if self._dataset is not None and runner.iter + 1 == runner.max_iters:
            self._measure(runner, runner.iter + 1)

    @staticmethod
    def _begin(runner):
        return getattr(runner.train_loop, 'warmup_iters', 0)

    def _measure(self, runner, iteration):
        model = bare_model(runner.model)
        classes = self._dataset.metainfo['classes']
        # Of its own hook: in this iteration it may be switched off.
        refiner = next(
            (h.refiner for h in runner.hooks if isinstance(h, SAMRefineHook)),
            None,
        )
        scores = {'before': _Score(classes)}
        if refiner is not None:
            scores['after'] = _Score(classes)
        count = min(self.num_images, len(self._dataset))
        device = next(model.parameters()).device
        for start in range(0, count, self.batch_size):
            samples = [
                self._dataset[i]['data_samples'].to(device)
                for i in range(start, min(start + self.batch_size, count))
            ]
            labels, _ = model.pseudo_labels(samples)
            for sample, label in zip(samples, labels, strict=True):
                truth = sample.gt_sem_seg.data[0]
                scores['before'].add(label, truth)
                if refiner is not None:
                    image = model.clean_rgb(sample)
                    scores['after'].add(
                        refiner(image, label).to(label.device), truth
                    )
        report = {when: score.report() for when, score in scores.items()}
        self._tell(runner, iteration, count, report)

    def _tell(self, runner, iteration, count, report):
        lines = [
            f'{when} refinement: mIoU {values["mIoU"]:.1f}, '
            f'{values["aAcc"]:.1f}% of the labelled pixels right, '
            f'{values["kept"]:.1f}% labelled'
            for when, values in report.items()
        ]
        runner.logger.info(
            f'Teacher at iteration {iteration}, on {count} images whose '
            'labels are known but unused\n  ' + '\n  '.join(lines)
        )
        runner.visualizer.add_scalars(
            {
                f'pseudo_label/{when}/{name}': value
                for when, values in report.items()
                for name, value in values.items()
                if name != 'IoU'
            },
            step=iteration,
        )
        path = Path(runner.work_dir) / FILE_NAME
        # A resumed run adds to what the one before it measured.
        known = json.loads(path.read_text()) if path.is_file() else {}
        known[str(iteration)] = dict(images=count, **report)
        with atomic_path(path) as temporary:
            temporary.write_text(to_json(known) + '\n')


class _Score:
    """Sums over images, and what they say in percent."""

    def __init__(self, classes):
        self.classes = classes
        size = len(classes)
        self.confusion = torch.zeros((size, size), dtype=torch.int64)
        self.pixels = 0

    def add(self, label, truth):
        truth = truth.long()
        self.pixels += int((truth != IGNORE).sum())
        self.confusion += confusion_matrix(
            label,
            truth.masked_fill(label == IGNORE, IGNORE),
            len(self.classes),
            IGNORE,
        )

    def report(self):
        intersection, union, _, labelled = areas(self.confusion)
        # A class that is neither there nor predicted has no value.
        iou = (intersection / union).tolist()
        kept = float(labelled.sum())
        return dict(
            mIoU=mean_percent(iou),
            aAcc=100 * float(intersection.sum()) / max(kept, 1),
            kept=100 * kept / max(self.pixels, 1),
            IoU={
                name: 100 * value
                for name, value in zip(self.classes, iou, strict=True)
            },
        )
