"""Hooks of self-training: the teacher, SAM, reports about pseudo-labels."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmseg.registry import DATASETS, HOOKS, MODELS

from clouds_mmseg.engine.hooks.results import to_json
from clouds_mmseg.engine.run_state import require_finite_weights, unwrap_model
from clouds_mmseg.evaluation.dg_iou_metric import (
    confusion_matrix,
    intersect_and_union,
    mean_percent,
)
from clouds_mmseg.models.segmentors.pseudo_labels import refine_label
from clouds_mmseg.utils.atomic import atomic_path
from clouds_mmseg.utils.cityscapes import IGNORE
from clouds_mmseg.utils.errors import UserError
from clouds_mmseg.utils.text_files import parse_json
from clouds_mmseg.utils.visualization import strip

# Written by PseudoLabelAccuracyHook to the work dir.
FILE_NAME = 'pseudo_labels.json'


@HOOKS.register_module()
class EMATeacherHook(Hook):
    """Initialise the teacher from the student, then update it by EMA.

    The teacher is a copy of the student when self-training begins: at the
    loop's ``warmup_iters``, or before the first iteration. From then on it is
    updated every ``interval`` iterations. Everything depends on the iteration
    and on the teacher's saved step count, so that a resumed run does the
    same.

    Args:
        interval: Iterations between two updates. The official code updates
            every 100 (and writes a decay of 0.999 an update).

    Raises:
        UserError: ``interval`` is not positive.
        NonFiniteError: In a run, before an update: a weight of the student
            is NaN or infinite. It would stay in the average forever.
    """

    priority = 'NORMAL'

    def __init__(self, interval: int = 100):
        if interval < 1:
            raise UserError(f'interval must be at least 1, got {interval}')
        self.interval = interval
        self._initialized = False

    def before_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: dict | None = None
    ) -> None:
        """Copy the student when self-training begins."""
        if self._initialized or runner.iter < self._start(runner):
            return
        self._initialized = True
        model = unwrap_model(runner.model)
        if model.teacher.steps == 0:
            self._update(runner)
            runner.logger.info(
                f'Self-training begins at iteration {runner.iter}: the '
                'teacher is a copy of the student.'
            )

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: dict | None = None,
        outputs: dict | None = None,
    ) -> None:
        """Update the teacher every ``interval`` iterations."""
        since = runner.iter + 1 - self._start(runner)
        if since > 0 and since % self.interval == 0:
            self._update(runner)

    @staticmethod
    def _update(runner):
        model = unwrap_model(runner.model)
        require_finite_weights(
            runner,
            f'the weights that the teacher would follow at iteration '
            f'{runner.iter + 1}',
            model.student(),
        )
        model.update_teacher()

    @staticmethod
    def _start(runner):
        return getattr(runner.train_loop, 'warmup_iters', 0)


@HOOKS.register_module()
class SAMRefineHook(Hook):
    """Refine the teacher's pseudo-labels with SAM or another refiner.

    The refiner is built and its weights are checked before training begins.
    It is not a submodule of the model: it is never saved, wrapped or
    averaged.

    Args:
        refiner: Config of a refiner in ``clouds_mmseg/refine``.
        start_iter: First iteration of refinement, counted from the beginning
            of self-training.
        refine_interval: Iterations of self-training between refinements.
        picture_interval: Iterations of self-training between visualizations
            of labels before and after refinement. None disables them.
        num_pictures: Number of images per visualization.
        width: Width of one image, pixels.

    Raises:
        UserError: A number is out of range.
    """

    priority = 'NORMAL'

    def __init__(
        self,
        refiner: dict,
        *,
        start_iter: int = 0,
        refine_interval: int = 1,
        picture_interval: int | None = 1000,
        num_pictures: int = 2,
        width: int = 512,
    ):
        for name, value, low in (
            ('start_iter', start_iter, 0),
            ('refine_interval', refine_interval, 1),
            ('picture_interval', picture_interval or 1, 1),
            ('num_pictures', num_pictures, 1),
            ('width', width, 1),
        ):
            if value < low:
                raise UserError(f'{name} must be at least {low}, got {value}')
        self.refiner_cfg = refiner
        self.start_iter = start_iter
        self.refine_interval = refine_interval
        self.picture_interval = picture_interval
        self.num_pictures = num_pictures
        self.width = width
        self.refiner = None
        self._num_to_draw = 0
        self._samples = []

    def before_train(self, runner: Runner) -> None:
        """Build the refiner on the model's device; tests need none.

        Raises:
            UserError: The model is not a ``SelfTrainingSegmentor``.
        """
        model = unwrap_model(runner.model)
        if not hasattr(model, 'refiner'):
            raise UserError(
                'SAMRefineHook needs a model that labels its images, '
                f'SelfTrainingSegmentor; the config has {type(model).__name__}'
            )
        device = next(model.parameters()).device
        self.refiner = MODELS.build(self.refiner_cfg).to(device)
        _check_class_names(self.refiner, runner)

    def before_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: dict | None = None
    ) -> None:
        """Switch refinement on or off for this iteration."""
        step = self._self_training_iter(runner)
        active = (
            step >= self.start_iter
            and (step - self.start_iter) % self.refine_interval == 0
        )
        unwrap_model(runner.model).refiner = self._refine if active else None
        if (
            self.picture_interval is not None
            and step >= self.start_iter
            and (step - self.start_iter) % self.picture_interval == 0
            and is_main_process()
        ):
            self._num_to_draw = self.num_pictures

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: dict | None = None,
        outputs: dict | None = None,
    ) -> None:
        """Visualize the labels that were kept during the step."""
        # From the dataset: only the main process has a visualizer with it.
        palette = runner.train_loop.dataloader.dataset.metainfo['palette']
        for number, (image, before, after) in enumerate(self._samples):
            drawing = strip(
                image.permute(1, 2, 0).numpy(),
                before.numpy(),
                after.numpy(),
                palette,
                width=self.width,
                caption=f'pseudo label, iteration {runner.iter + 1}',
                titles=('image', 'teacher', 'refined'),
            )
            runner.visualizer.add_image(
                f'pseudo_label_{number}', np.asarray(drawing), runner.iter + 1
            )
        self._samples = []

    def after_train(self, runner: Runner) -> None:
        """Remove the refiner from the model."""
        unwrap_model(runner.model).refiner = None

    def _refine(self, image, label, confidence):
        """Refine a label; keep both versions if they are to be drawn."""
        try:
            refined = refine_label(self.refiner, image, label, confidence)
        except torch.OutOfMemoryError as error:
            kind = type(self.refiner).__name__
            raise UserError(
                f'{kind} runs out of memory on {label.device} for an image '
                f'of {label.shape[1]}x{label.shape[0]}: give it a smaller '
                'prompt_batch (word_batch of ConceptRefiner), a smaller '
                'model, or dtype="bfloat16" where it takes one'
            ) from error
        if self._num_to_draw:
            self._num_to_draw -= 1
            self._samples.append((image.cpu(), label.cpu(), refined.cpu()))
        return refined

    # Read by refine_label.
    _refine.uses_confidence = True  # type: ignore[attr-defined]

    @staticmethod
    def _self_training_iter(runner):
        return runner.iter - getattr(runner.train_loop, 'warmup_iters', 0)


def _check_class_names(refiner, runner):
    """Refuse a refiner whose classes are not those of the dataset.

    Raises:
        UserError: Names or their order differ: labels would be wrong.
    """
    found = getattr(refiner, 'classes', None)
    if found is None:
        return
    classes = runner.train_loop.dataloader.dataset.metainfo['classes']
    if tuple(found) != tuple(classes):
        raise UserError(
            f'{type(refiner).__name__}: the classes of its words are '
            f'{", ".join(found)}; those of the dataset, which the labels '
            f'are numbered by, are {", ".join(classes)}. Give words for '
            'exactly these, in this order'
        )


@HOOKS.register_module()
class PseudoLabelReportHook(Hook):
    """Log statistics of the pseudo-labels.

    Share of pixels kept, the teacher's mean confidence, agreement of labels
    before and after refinement, and the share of each class. Of the images of
    the iteration before a report also what tells the quality of labels
    without knowing the truth: the expected IoU of their regions, and the
    agreement of the labels of two views of the teacher. In a distributed run
    the numbers are those of the first process.

    Args:
        interval: Iterations between two reports.

    Raises:
        UserError: ``interval`` is not positive.
    """

    # Before LoggerHook, which reads the message hub.
    priority = 'NORMAL'

    def __init__(self, interval: int = 500):
        if interval < 1:
            raise UserError(f'interval must be at least 1, got {interval}')
        self.interval = interval

    def before_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: dict | None = None
    ) -> None:
        """Measure the quality in iterations that end with a report."""
        unwrap_model(runner.model).measure_quality = self._is_due(runner)

    def _is_due(self, runner):
        return (runner.iter + 1) % self.interval == 0

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: dict | None = None,
        outputs: dict | None = None,
    ) -> None:
        """Report statistics since the last report."""
        if not self._is_due(runner):
            return
        report = unwrap_model(runner.model).statistics.pop()
        if report is None or not is_main_process():
            return
        classes = runner.train_loop.dataloader.dataset.metainfo['classes']
        shares = dict(zip(classes, report.pop('histogram'), strict=True))
        ious = {
            name: value
            for name, value in zip(
                classes, report.pop('class_iou'), strict=True
            )
            if value is not None
        }
        scalars = {
            f'pseudo_label/{name}': value
            for name, value in report.items()
            if value is not None
        }
        for kind, values in (('share', shares), ('expected_iou', ious)):
            for name, value in values.items():
                scalars[f'pseudo_label/{kind}/{name}'] = value
        runner.visualizer.add_scalars(scalars, step=runner.iter + 1)
        largest = sorted(shares, key=shares.__getitem__, reverse=True)
        runner.logger.info(
            f'Pseudo labels of {report["images"]} images: '
            f'{report["kept"]:.1%} of pixels kept, '
            f'confidence {report["confidence"]:.3f}, '
            f'unchanged by refinement {report["agreement"]:.1%}'
            + _describe_quality(report)
            + '\n  '
            + '  '.join(f'{c} {shares[c]:.1%}' for c in largest)
        )


def _describe_quality(report):
    """Describe what an iteration measured without the truth, if it did."""
    text = ''
    if report['expected_iou'] is not None:
        text += f', expected IoU {report["expected_iou"]:.3f}'
    if report['view_agreement'] is not None:
        text += f', same label in two views {report["view_agreement"]:.1%}'
    return text


@HOOKS.register_module()
class PseudoLabelAccuracyHook(Hook):
    """Evaluate pseudo-labels before and after refinement with ground truth.

    Measured when self-training begins, when it ends, and every ``interval``
    iterations between. The images come
    from a set generated with ``--keep-labels``; nothing trains on those
    labels. The values go to the log, the Visualizer and
    ``pseudo_labels.json`` in the work dir, by iteration.

    Args:
        dataset: A ``GeneratedDataset`` with ``evaluation_labels=True`` whose
            images have one size and whose pipeline ends with
            ``LoadSegLabels``, ``KeepCleanView`` and ``PackDGInputs``.
        num_images: Number of images, the first ones of the dataset.
        batch_size: Images per forward pass of the teacher.
        interval: Iterations of self-training between two measurements. None:
            only at its beginning and end.

    Raises:
        UserError: A number is not positive.
    """

    # After EMATeacherHook has initialised or updated the teacher.
    priority = 'LOW'

    def __init__(
        self,
        dataset: dict,
        *,
        num_images: int = 64,
        batch_size: int = 8,
        interval: int | None = None,
    ):
        for name, value in (
            ('num_images', num_images),
            ('batch_size', batch_size),
            ('interval', 1 if interval is None else interval),
        ):
            if value < 1:
                raise UserError(f'{name} must be at least 1, got {value}')
        self.dataset_cfg = dataset
        self.num_images = num_images
        self.batch_size = batch_size
        self.interval = interval
        self._dataset = None

    def before_train(self, runner: Runner) -> None:
        """Build the dataset, so that its errors occur before training."""
        if is_main_process() and self._begin(runner) < runner.max_iters:
            self._dataset = DATASETS.build(self.dataset_cfg)

    def before_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: dict | None = None
    ) -> None:
        """Evaluate the teacher at the beginning of self-training."""
        if self._dataset is not None and runner.iter == self._begin(runner):
            self._measure(runner, runner.iter)

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: dict | None = None,
        outputs: dict | None = None,
    ) -> None:
        """Evaluate the teacher at intervals and at the end."""
        if self._dataset is None:
            return
        since = runner.iter + 1 - self._begin(runner)
        is_due = (
            self.interval is not None
            and since > 0
            and since % self.interval == 0
        )
        if is_due or runner.iter + 1 == runner.max_iters:
            self._measure(runner, runner.iter + 1)

    @staticmethod
    def _begin(runner):
        return getattr(runner.train_loop, 'warmup_iters', 0)

    def _measure(self, runner, iteration):
        model = unwrap_model(runner.model)
        classes = self._dataset.metainfo['classes']
        # From the hook: model.refiner may be None in this iteration.
        refiner = next(
            (h.refiner for h in runner.hooks if isinstance(h, SAMRefineHook)),
            None,
        )
        scores = {'before': LabelScore(classes)}
        if refiner is not None:
            scores['after'] = LabelScore(classes)
        count = min(self.num_images, len(self._dataset))
        device = next(model.parameters()).device
        for start in range(0, count, self.batch_size):
            samples = [
                self._dataset[i]['data_samples'].to(device)
                for i in range(start, min(start + self.batch_size, count))
            ]
            labels, confidences = model.pseudo_labels(samples)
            for sample, label, confidence in zip(
                samples, labels, confidences, strict=True
            ):
                truth = sample.gt_sem_seg.data[0]
                scores['before'].add(label, truth)
                if refiner is not None:
                    refined = refine_label(
                        refiner, model.clean_rgb(sample), label, confidence
                    )
                    scores['after'].add(refined.to(label.device), truth)
        report = {when: score.report() for when, score in scores.items()}
        self._report(runner, iteration, count, report)

    def _report(self, runner, iteration, count, report):
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
        # A resumed run adds to the measurements of the previous one.
        known = parse_json(path.read_text()) if path.is_file() else {}
        known[str(iteration)] = dict(images=count, **report)
        with atomic_path(path) as temporary:
            temporary.write_text(to_json(known) + '\n')


class LabelScore:
    """Confusion matrix of labels summed over images, reported in percent.

    Args:
        classes: Names of the K classes.
    """

    def __init__(self, classes: Sequence[str]):
        self.classes = classes
        size = len(classes)
        self.confusion = torch.zeros((size, size), dtype=torch.int64)
        self.pixels = 0

    def add(self, label: torch.Tensor, truth: torch.Tensor) -> None:
        """Add the label of an image.

        Args:
            label: (H, W) int64 in [0, K) or 255, which is not counted.
            truth: (H, W), the same.
        """
        truth = truth.long()
        self.pixels += int((truth != IGNORE).sum())
        self.confusion += confusion_matrix(
            label,
            truth.masked_fill(label == IGNORE, IGNORE),
            len(self.classes),
            IGNORE,
        )

    def report(self) -> dict:
        """Return ``mIoU``, ``aAcc``, ``kept`` and ``IoU`` (class -> IoU)."""
        intersection, union, _, labelled = intersect_and_union(self.confusion)
        # The IoU of a class that is absent and not predicted is NaN.
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
