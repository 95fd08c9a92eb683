"""Build the refiner of pseudo labels and hand it to the model."""

import numpy as np
from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmseg.registry import HOOKS, MODELS

from clouds_mmseg.engine.panels import strip
from clouds_mmseg.engine.run_header import bare_model


@HOOKS.register_module()
class SAMRefineHook(Hook):
    """Let SAM, or another refiner, mend the teacher's labels.

    The refiner is built and its weights are checked before training begins.
    It lives here, outside of the model's module tree: it is never saved,
    wrapped or averaged.

    Args:
        refiner (dict): Config of a refiner in ``clouds_mmseg/refine``.
        start_iter (int): Iterations of self-training before labels are
            refined, counted from its beginning.
        refine_interval (int): Labels are refined every so many iterations
            of self-training.
        picture_interval (int | None): Every so many iterations of
            self-training the labels before and after are given to the
            Visualizer. None gives none.
        num_pictures (int): How many each time.
        width (int): Width of one picture, pixels.

    Raises:
        ValueError: A number is out of range.
    """

    priority = 'NORMAL'

    def __init__(
        self,
        refiner,
        *,
        start_iter=0,
        refine_interval=1,
        picture_interval=1000,
        num_pictures=2,
        width=512,
    ):
        for name, value, low in (
            ('start_iter', start_iter, 0),
            ('refine_interval', refine_interval, 1),
            ('picture_interval', picture_interval or 1, 1),
            ('num_pictures', num_pictures, 1),
            ('width', width, 1),
        ):
            if value < low:
                raise ValueError(f'{name} must be at least {low}, got {value}')
        self.refiner_cfg = refiner
        self.start_iter = start_iter
        self.refine_interval = refine_interval
        self.picture_interval = picture_interval
        self.num_pictures = num_pictures
        self.width = width
        self.refiner = None
        self._wanted = 0
        self._pictures = []

    def before_train(self, runner):
        """Build the refiner on the model's device; a test needs none.

        Args:
            runner (Runner): The runner.

        Raises:
            TypeError: The model is not a ``SelfTrainingSegmentor``.
        """
        model = bare_model(runner.model)
        if not hasattr(model, 'refiner'):
            raise TypeError(
                'SAMRefineHook needs a model that labels its images, '
                f'SelfTrainingSegmentor; the config has {type(model).__name__}'
            )
        device = next(model.parameters()).device
        self.refiner = MODELS.build(self.refiner_cfg).to(device)

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        """Switch refinement on or off for this iteration.

        Args:
            runner (Runner): The runner.
            batch_idx (int): Unused.
            data_batch (dict, optional): Unused.
        """
        since = self._since(runner)
        active = (
            since >= self.start_iter
            and (since - self.start_iter) % self.refine_interval == 0
        )
        bare_model(runner.model).refiner = self._refine if active else None
        if (
            self.picture_interval is not None
            and since >= self.start_iter
            and (since - self.start_iter) % self.picture_interval == 0
            and is_main_process()
        ):
            self._wanted = self.num_pictures

    def after_train_iter(
        self, runner, batch_idx, data_batch=None, outputs=None
    ):
        """Draw what was kept during the step.

        Args:
            runner (Runner): The runner.
            batch_idx (int): Unused.
            data_batch (dict, optional): Unused.
            outputs (dict, optional): Unused.
        """
        # Of the dataset: only the main process has a visualizer that knows.
        palette = runner.train_loop.dataloader.dataset.metainfo['palette']
        for number, (image, before, after) in enumerate(self._pictures):
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
        self._pictures = []

    def after_train(self, runner):
        """Take the refiner back.

        Args:
            runner (Runner): The runner.
        """
        bare_model(runner.model).refiner = None

    def _refine(self, image, label):
        """Refine a label, and keep both for a picture if one is wanted."""
        refined = self.refiner(image, label)
        if self._wanted:
            self._wanted -= 1
            self._pictures.append((image.cpu(), label.cpu(), refined.cpu()))
        return refined

    @staticmethod
    def _since(runner):
        return runner.iter - getattr(runner.train_loop, 'warmup_iters', 0)
