"""Detection of NaN and infinity in training and evaluation."""

import math
from functools import partial

import torch
from mmengine.dist import all_gather_object, all_reduce, get_world_size
from mmengine.hooks import CheckpointHook, Hook
from mmengine.optim import OptimWrapper, OptimWrapperDict
from mmengine.runner import IterBasedTrainLoop, Runner
from mmseg.registry import HOOKS
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.nn.utils import get_total_norm

from clouds_mmseg.engine.hooks.checkpoint import SafeCheckpointHook
from clouds_mmseg.engine.run_state import (
    last_good_checkpoint,
    record_good_step,
    require_finite_weights,
    stop,
    unwrap_model,
)
from clouds_mmseg.models.segmentors.dg_segmentor import DGSegmentor
from clouds_mmseg.utils.errors import UserError
from clouds_mmseg.utils.finite import (
    listed,
    require_finite_scores,
)
from clouds_mmseg.utils.result_warnings import (
    forget_result_warnings,
    warn_about_results,
)

# Steps without effect after which a training warns.
_PATIENCE = 50
# Loss scale that is reached only if gradients overflow at every step.
_MIN_LOSS_SCALE = 2.0**-14


def check_plan(runner: Runner) -> None:
    """Refuse a training plan without effect.

    Args:
        runner: With loops, optimiser and schedulers built.

    Raises:
        UserError: Nothing is trainable, every learning rate is 0, or a
            scheduler counts epochs in a loop of iterations.
    """
    groups = [
        group
        for wrapper in optim_wrappers(runner.optim_wrapper)
        for group in wrapper.optimizer.param_groups
    ]
    if not any(p.requires_grad for g in groups for p in g['params']):
        raise UserError(
            'no parameter of the model is trainable (requires_grad is False '
            'everywhere): look at what the config freezes'
        )
    # A resumed schedule may have decayed to 0.
    if not any(g.get('initial_lr', g['lr']) for g in groups):
        raise UserError(
            'the learning rate is 0 for every parameter: nothing would be '
            'trained; set optim_wrapper.optimizer.lr and the lr_mult of '
            'paramwise_cfg'
        )
    loop = runner.train_loop
    by_iteration = isinstance(loop, IterBasedTrainLoop)
    for scheduler in _schedulers(runner.param_schedulers):
        if by_iteration and scheduler.by_epoch:
            raise UserError(
                f'param_scheduler {type(scheduler).__name__} counts epochs, '
                f'but {type(loop).__name__} counts iterations: the schedule '
                'would never take effect; give it by_epoch=False, and begin '
                'and end in iterations'
            )
    length = loop.max_iters if by_iteration else loop.max_epochs
    if runner.val_loop is not None and loop.val_begin > length:
        warn_about_results(
            'no validation will be made: train_cfg.val_begin is '
            f'{loop.val_begin}, and the training ends at {length}',
            key='no_validation',
            hub=runner.message_hub,
        )


def optim_wrappers(
    optim_wrapper: OptimWrapper | OptimWrapperDict,
) -> list[OptimWrapper]:
    """Return the optimiser wrappers of a run: one, or those of a dict.

    Args:
        optim_wrapper: ``optim_wrapper`` of a runner.

    Returns:
        Each has an ``optimizer``.
    """
    if isinstance(optim_wrapper, OptimWrapperDict):
        return list(optim_wrapper.values())
    return [optim_wrapper]


def _schedulers(schedulers):
    """Return all schedulers: of a list, or of each optimiser of a dict."""
    if isinstance(schedulers, dict):
        return [s for part in schedulers.values() for s in part]
    return list(schedulers or [])


@HOOKS.register_module()
class NonFiniteCheckHook(Hook):
    """Check losses, gradients, weights and scores for NaN and infinity.

    ``DGRunner`` has it in ``default_hooks`` under ``nonfinite_check``, with
    any config and model.

    - Before each optimiser step the losses and the norm of the gradients
      are read together, at the cost of one reduction and one
      synchronisation. If one is NaN or infinite in any process, all
      processes stop or skip the step. With ``clip_grad`` the norm is the one
      computed by clipping.
    - A skipped step leaves parameters, optimiser and running statistics as
      they were before it; the learning rate schedule advances. With gradient
      accumulation all iterations of the step are dropped. How many were
      skipped is in the checkpoint, so that a resumed run counts on.
    - Infinite gradients under a loss scaler (``AmpOptimWrapper``) are the
      scaler's to handle; losses are not.
    - Weights are checked when a run begins, before each checkpoint and each
      evaluation: the newest checkpoint always has finite weights.
    - Scores are checked for each evaluated image.

    Args:
        max_skipped_steps: Steps that may be skipped in a run; one more stops
            it. The default stops at the first.

    Raises:
        UserError: ``max_skipped_steps`` is negative.
        NonFiniteError: In a run; the message has the iteration, the losses,
            the files of the batch and the last good checkpoint.
    """

    # Before all hooks that save, average or report.
    priority = 'VERY_HIGH'

    def __init__(self, *, max_skipped_steps: int = 0):
        if max_skipped_steps < 0:
            raise UserError(
                'nonfinite_check.max_skipped_steps must be at least 0, got '
                f'{max_skipped_steps}'
            )
        self.max_skipped_steps = max_skipped_steps
        self._handles = []
        self._losses = {}
        # Files of the iterations that the next step accumulates.
        self._files = []
        self._buffers = []
        self._checked = self._drop = False
        self._steps, self._has_effect = 0, False

    def before_run(self, runner: Runner) -> None:
        """Remove forward hooks that an earlier runner left on the model."""
        self._remove_hooks()

    def after_run(self, runner: Runner) -> None:
        """Remove all hooks from model and optimisers."""
        self._remove_hooks()

    def before_train(self, runner: Runner) -> None:
        """Check plan and weights, and register hooks on model and optimisers.

        Args:
            runner: With weights loaded and loops built.
        """
        check_plan(runner)
        require_finite_weights(runner, _origin(runner))
        self._register_forward_hook(runner)
        for wrapper in optim_wrappers(runner.optim_wrapper):
            self._handles.append(
                wrapper.optimizer.register_step_pre_hook(
                    partial(self._before_step, runner, wrapper)
                )
            )

    def before_val_epoch(self, runner: Runner) -> None:
        """Refuse to evaluate weights that are not finite."""
        training = runner.is_training
        what = f'the weights at iteration {runner.iter}' if training else None
        require_finite_weights(runner, what or _origin(runner))
        if training:
            self._warn_of_no_effect(runner)
        else:
            self._register_forward_hook(runner)

    def before_test_epoch(self, runner: Runner) -> None:
        """Refuse to evaluate weights that are not finite."""
        require_finite_weights(runner, _origin(runner))
        self._register_forward_hook(runner)

    def before_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: dict | None = None
    ) -> None:
        """Record the files of a batch, and buffers to restore after a skip.

        Args:
            data_batch: With ``data_samples``.
        """
        if not self._files and self.max_skipped_steps:
            self._buffers = [
                (buffer, buffer.clone())
                for module in unwrap_model(runner.model).modules()
                if module.training
                for buffer in module.buffers(recurse=False)
            ]
        self._files.append(_files_of(data_batch))
        self._losses = {}
        self._checked = False

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: dict | None = None,
        outputs: dict | None = None,
    ) -> None:
        """Check losses if no step did, and weights before saving."""
        wrappers = optim_wrappers(runner.optim_wrapper)
        due = all(wrapper.should_update() for wrapper in wrappers)
        if not self._checked and not self._drop:
            # Iteration without step: accumulation, or dropped by the scaler.
            bad, _ = self._reduce(0.0)
            if bad:
                self._refuse(runner, None)
                self._drop = not due
            else:
                record_good_step(runner)
        if due:
            if self._drop:
                self._restore()
            self._files, self._drop = [], False
        self._check_scale(runner, wrappers)
        if any(_saves_iteration(hook, runner) for hook in runner.hooks):
            require_finite_weights(
                runner, f'the weights after iteration {runner.iter + 1}'
            )

    def after_train_epoch(self, runner: Runner) -> None:
        """Check the weights before mmengine's checkpoint hook saves them."""
        if any(_saves_epoch(hook, runner) for hook in runner.hooks):
            require_finite_weights(
                runner, f'the weights after epoch {runner.epoch + 1}'
            )

    def _register_forward_hook(self, runner):
        """Register a hook that receives losses and predictions."""
        model = unwrap_model(runner.model)
        if not self._handles:
            self._handles.append(
                model.register_forward_hook(self._after_forward)
            )

    def _remove_hooks(self):
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def _after_forward(self, model, inputs, outputs):
        """Keep losses for the step; check predictions immediately."""
        if isinstance(outputs, dict):
            self._losses = {k: v for k, v in outputs.items() if 'loss' in k}
        elif isinstance(outputs, list) and not isinstance(model, DGSegmentor):
            # DGSegmentor checks its own scores.
            for sample in outputs:
                if 'seg_logits' in sample:
                    require_finite_scores(
                        sample.seg_logits.data, sample.get('img_path')
                    )

    def _before_step(self, runner, wrapper, optimizer, args, kwargs):
        """Check losses and gradients before the optimiser step."""
        first = not self._checked and not self._steps
        norm = _gradient_norm(wrapper, first)
        if not self._drop and not self._checked:
            bad, norm = self._reduce(norm)
            self._checked = True
            if bad:
                self._refuse(runner, norm)
                self._drop = True
            else:
                record_good_step(runner)
                self._record_effect(runner, norm, optimizer)
        if self._drop:
            # Parameters without gradient are not updated.
            for group in optimizer.param_groups:
                for parameter in group['params']:
                    parameter.grad = None

    def _reduce(self, norm):
        """Return whether any process has non-finite values, and the norm."""
        values = list(_scalars(self._losses).values())
        device = values[0].device if values else 'cpu'
        if isinstance(norm, torch.Tensor):
            device = norm.device
        norm = torch.as_tensor(norm, dtype=torch.float32, device=device)
        numbers = torch.stack([norm, *(v.to(device) for v in values)])
        # A maximum over processes may ignore NaN; a flag does not.
        flag = (~numbers.isfinite().all()).float()
        if get_world_size() > 1:
            all_reduce(flag, 'max')
        bad, norm = torch.stack([flag, norm]).tolist()
        return bool(bad), norm

    def _refuse(self, runner, norm):
        """Raise in all processes, or count a skipped step."""
        losses = {k: float(v) for k, v in _scalars(self._losses).items()}
        bad = [k for k, v in losses.items() if not math.isfinite(v)]
        # Losses are of this batch; gradients of all accumulated batches.
        files = self._files[-1:] if bad else self._files
        reports = all_gather_object(
            dict(
                losses={k: losses[k] for k in bad},
                files=[f for part in files for f in part],
                norm=norm,
            )
        )
        message = _describe(runner, reports)
        skipped = list(runner.message_hub.get_info('skipped_steps') or [])
        if len(skipped) >= self.max_skipped_steps:
            if skipped:
                message += (
                    f' Skipped before, of at most {self.max_skipped_steps}: '
                    f'the steps of iteration {", ".join(map(str, skipped))}.'
                )
            stop(runner, f'training stopped: {message}')
        skipped.append(runner.iter + 1)
        runner.message_hub.update_info('skipped_steps', skipped)
        runner.logger.warning(
            f'skipping optimiser step {len(skipped)} of at most '
            f'{self.max_skipped_steps}: {message}'
        )
        warn_about_results(
            f'optimiser steps skipped: {len(skipped)}, for losses or '
            'gradients that were not finite, at iteration '
            + ', '.join(map(str, skipped)),
            key='skipped_steps',
            hub=runner.message_hub,
        )
        self._restore()

    def _restore(self):
        """Restore the running statistics from before the step."""
        with torch.no_grad():
            for buffer, saved in self._buffers:
                buffer.copy_(saved)

    def _check_scale(self, runner, wrappers):
        """Stop where a loss scaler drops every step."""
        if (runner.iter + 1) % _PATIENCE:
            return
        for wrapper in wrappers:
            scaler = _scaler(wrapper)
            scale = scaler.get_scale() if scaler else 1.0
            if scale < _MIN_LOSS_SCALE:
                stop(
                    runner,
                    f'the loss scale has fallen to {scale:g} by iteration '
                    f'{runner.iter + 1}: in float16 the gradients overflow '
                    'at every scale, and no step is made. Train with --amp '
                    f'(bfloat16) or without. {last_good_checkpoint(runner)}',
                )

    def _record_effect(self, runner, norm, optimizer):
        rate = max(group['lr'] for group in optimizer.param_groups)
        self._has_effect = self._has_effect or (norm != 0 and rate != 0)
        self._steps += 1
        if self._steps == _PATIENCE and not self._has_effect:
            self._warn_of_no_effect(runner)

    def _warn_of_no_effect(self, runner):
        """Warn that no step so far has changed a weight."""
        hub = runner.message_hub
        if self._has_effect:
            forget_result_warnings(['no_effect'], hub)
        elif self._steps:
            warn_about_results(
                f'the {self._steps} optimiser steps of this run have '
                'changed no weight: in each of them the gradient or the '
                'learning rate was 0. Look at the labels (are all pixels '
                'ignored?), loss weights and param_scheduler',
                key='no_effect',
                hub=hub,
            )


def _scaler(wrapper):
    """Return the enabled loss scaler of a wrapper, if any."""
    scaler = getattr(wrapper, 'loss_scaler', None)
    return scaler if scaler is not None and scaler.is_enabled() else None


def _gradient_norm(wrapper: OptimWrapper, first: bool) -> Tensor | float:
    """Return the L2 norm of the gradients, or the norm computed by clipping.

    Args:
        wrapper: About to step.
        first: Whether this is the first step of the run.

    Returns:
        1.0 if a loss scaler handles infinite gradients.

    Raises:
        UserError: No parameter has a gradient in the first step.
    """
    gradients = [
        parameter.grad
        for group in wrapper.optimizer.param_groups
        for parameter in group['params']
        if parameter.grad is not None
    ]
    if not gradients:
        if first:
            raise UserError(
                'no parameter has got a gradient in the first step: nothing '
                'would be trained. Look at what the config freezes, at the '
                'loss weights, and whether a loss has "loss" in its name'
            )
        return 0.0
    if _scaler(wrapper) is not None:
        return 1.0
    clips = wrapper.clip_grad_kwargs and wrapper.grad_name == 'grad_norm'
    if clips:
        return wrapper.message_hub.get_scalar('train/grad_norm').current()
    norm = get_total_norm(gradients)
    return norm.full_tensor() if isinstance(norm, DTensor) else norm


def _scalars(losses):
    """Reduce losses as mmengine does: means, and sums of lists of means."""
    means = {}
    for name, value in losses.items():
        parts = value if isinstance(value, (list, tuple)) else [value]
        parts = [p.detach().float() for p in parts]
        parts = [p if p.ndim == 0 else p.mean() for p in parts]
        means[name] = parts[0] if len(parts) == 1 else torch.stack(parts).sum()
    return means


def _files_of(data_batch):
    samples = (
        data_batch.get('data_samples') if isinstance(data_batch, dict) else ()
    )
    return [
        str(sample.get('img_path', 'an image without path'))
        for sample in samples or ()
    ]


def _describe(runner, reports):
    """Describe iteration, values, files and the last good checkpoint."""
    parts = []
    for rank, report in enumerate(reports):
        where = f' (process {rank})' if len(reports) > 1 else ''
        if report['losses']:
            losses = [f'{k} = {v}' for k, v in report['losses'].items()]
            parts.append(
                f'{listed(losses)}{where}, of the images '
                + ', '.join(report['files'])
            )
    norm = reports[0]['norm']
    if not parts:
        files = [f for report in reports for f in report['files']]
        parts.append(
            f'the gradient norm is {norm} while all losses are finite, of '
            f'the images {", ".join(files)}'
        )
    return (
        f'at iteration {runner.iter + 1} of {runner.max_iters} there are '
        f'numbers that are not finite: {"; ".join(parts)}. '
        f'{last_good_checkpoint(runner)} To go on, lower the learning rate, '
        'look at these images and labels, or let a few such steps be skipped: '
        '--cfg-options default_hooks.nonfinite_check.max_skipped_steps=N.'
    )


def _origin(runner):
    """Describe the origin of the weights that a run starts with."""
    path = runner.start_checkpoint
    if path:
        return f'the weights of {path}'
    return 'the weights that the model was built with'


def _saves_iteration(hook, runner):
    """Return whether mmengine's hook is about to save.

    ``SafeCheckpointHook`` checks the weights itself.
    """
    return (
        isinstance(hook, CheckpointHook)
        and not isinstance(hook, SafeCheckpointHook)
        and not hook.by_epoch
        and (
            hook.every_n_train_iters(runner, hook.interval, hook.save_begin)
            or (hook.save_last and hook.is_last_train_iter(runner))
        )
    )


def _saves_epoch(hook, runner):
    return (
        isinstance(hook, CheckpointHook)
        and not isinstance(hook, SafeCheckpointHook)
        and hook.by_epoch
        and (
            hook.every_n_epochs(runner, hook.interval, hook.save_begin)
            or (hook.save_last and hook.is_last_train_epoch(runner))
        )
    )
