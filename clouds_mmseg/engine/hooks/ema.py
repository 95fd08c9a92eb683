"""Evaluation of the moving average of the weights (EMA)."""

import logging

from mmengine.hooks import EMAHook as _EMAHook
from mmengine.logging import print_log
from mmengine.model import ExponentialMovingAverage
from mmengine.registry import MODELS
from mmengine.runner import Runner
from mmseg.registry import HOOKS
from torch import nn

from clouds_mmseg.engine.run_state import (
    AVERAGE_KEY,
    AVERAGE_PREFIX,
    WEIGHTS_KEY,
    swap_average,
    unwrap_model,
)
from clouds_mmseg.models.backbones.adapters import part_of
from clouds_mmseg.utils.errors import UserError


@HOOKS.register_module(name='EMAHook')
class DGEMAHook(_EMAHook):
    """mmengine's ``EMAHook``, of what is trained alone.

    Validation, and the ``state_dict`` of checkpoints, have the averaged
    weights, so that ``clouds test``, ``predict`` and ``publish`` take them;
    the weights that are trained are in ``ema_state_dict``, and a resumed run
    continues with both, to the last bit.

    mmengine's averages a copy of the whole model. Here a frozen tower is
    neither copied nor saved twice, and the teacher of self-training, itself
    an average, is left as it is: the teacher labels images, and the averaged
    student is evaluated. Buffers (statistics of batch norm) are those of the
    trained model unless ``update_buffers`` is set.

    Args:
        ema_type: As for mmengine's, as all arguments.
        strict_load: Not used: an average that does not fit is an error.
        begin_iter: First iteration whose weights are averaged; until then
            the trained weights are evaluated.
        begin_epoch: The same in epochs.
        **kwargs: Of the average: ``momentum`` (0.0002), ``interval``,
            ``update_buffers``.

    Raises:
        UserError: In a run: a checkpoint that is resumed has the average of
            other parameters.
    """

    ema_model: ExponentialMovingAverage
    src_model: nn.Module

    def before_run(self, runner: Runner) -> None:
        """Build the average; its values are set by the first update."""
        self.src_model = trained_part(
            unwrap_model(runner.model),
            buffers=self.ema_cfg.get('update_buffers', False),
        )
        self.ema_model = MODELS.build(
            self.ema_cfg, default_args=dict(model=self.src_model)
        )

    def before_train(self, runner: Runner) -> None:
        """Tell if the run ends before the average begins."""
        begin, unit, end = self.begin_iter, 'iteration', runner.max_iters
        if self.enabled_by_epoch:
            begin, unit, end = self.begin_epoch, 'epoch', runner.max_epochs
        if begin > end:
            print_log(
                f'EMAHook begins at {unit} {begin}, and this run ends at '
                f'{end}: no weights are averaged',
                logger='current',
                level=logging.WARNING,
            )

    @property
    def updates(self) -> int:
        """Number of updates so far; 0: there is no average yet."""
        return int(self.ema_model.steps)

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: dict | None = None,
        outputs: dict | None = None,
    ) -> None:
        """Update the average; the first update copies the weights."""
        if self._ema_started(runner):
            self.ema_model.update_parameters(self.src_model)

    def before_val_epoch(self, runner: Runner) -> None:
        """Evaluate the average, if there is one.

        In a run that tests a checkpoint there is none here: what was loaded
        is the average.
        """
        if self.updates:
            text = _describe(self.updates)
            runner.logger.info(f'Evaluated is the {text}')
            runner.message_hub.update_info(WEIGHTS_KEY, text)
        elif runner.is_training:
            runner.message_hub.update_info(WEIGHTS_KEY, None)
        self._swap_ema_parameters()

    before_test_epoch = before_val_epoch

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Save the average as ``state_dict``, and the trained weights."""
        if not self.updates:
            return
        checkpoint[AVERAGE_KEY] = {
            key: value.detach().cpu()
            for key, value in self.ema_model.state_dict().items()
        }
        swap_average(checkpoint)
        checkpoint['meta']['weights'] = _describe(self.updates)

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Continue the average of a run that is resumed."""
        if not runner.is_resumed:
            return
        if AVERAGE_KEY not in checkpoint:
            done = checkpoint.get('meta', {}).get('iter', 0)
            if not self.enabled_by_epoch and done >= max(self.begin_iter, 1):
                print_log(
                    'The checkpoint has no average of the weights '
                    f'({AVERAGE_KEY}): EMAHook begins anew with its weights',
                    logger='current',
                    level=logging.WARNING,
                )
            return
        swap_average(checkpoint)
        saved = checkpoint[AVERAGE_KEY]
        own = self.ema_model.state_dict()
        # mmengine's hook saves the whole model.
        wrong = [
            key
            for key, value in own.items()
            if getattr(saved.get(key), 'shape', None) != value.shape
        ]
        if wrong:
            raise UserError(
                f'the checkpoint to resume has the average ({AVERAGE_KEY}) of '
                'other parameters: '
                f'{wrong[0].removeprefix(AVERAGE_PREFIX)} and '
                f'{len(wrong) - 1} more are not in it or of another shape; '
                'resume with the model that it was trained with'
            )
        self.ema_model.load_state_dict({key: saved[key] for key in own})

    def _swap_ema_parameters(self) -> None:
        if self.updates:
            super()._swap_ema_parameters()


def trained_part(model: nn.Module, *, buffers: bool = False) -> nn.Module:
    """Return a module of what is trained of a model.

    Args:
        model: The model; it shares its tensors.
        buffers: Include the saved buffers of the modules that have trained
            parameters themselves (statistics of batch norm).

    Returns:
        Parameters with a gradient, under their names.
    """
    trained = [n for n, p in model.named_parameters() if p.requires_grad]
    names: list[str] = []
    if buffers:
        saved = model.state_dict().keys()
        owners = {name.rpartition('.')[0] for name in trained}
        names = [
            name
            for name, _ in model.named_buffers()
            if name in saved and name.rpartition('.')[0] in owners
        ]
    return part_of(model, trained, names)


def _describe(updates):
    return f'moving average of the weights (EMAHook, {updates} updates)'
