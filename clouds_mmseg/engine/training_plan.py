"""Settings under which a training runs and does nothing useful."""

from mmengine.optim import OptimWrapperDict
from mmengine.runner import IterBasedTrainLoop

from clouds_mmseg.utils.errors import UserError
from clouds_mmseg.utils.result_warnings import warn_about_results


def check_plan(runner):
    """Refuse a plan that cannot train.

    Args:
        runner (Runner): Ready to train: loops, optimiser and schedulers are
            built.

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
    # A resumed schedule may have arrived at 0.
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


def optim_wrappers(optim_wrapper):
    """The optimiser wrappers of a run: one, or those of a dict.

    Args:
        optim_wrapper (OptimWrapper | OptimWrapperDict): Of a runner.

    Returns:
        list[OptimWrapper]: Each has an ``optimizer``.
    """
    if isinstance(optim_wrapper, OptimWrapperDict):
        return list(optim_wrapper.values())
    return [optim_wrapper]


def _schedulers(schedulers):
    """All schedulers: of a list, or of each optimiser of a dict."""
    if isinstance(schedulers, dict):
        return [s for part in schedulers.values() for s in part]
    return list(schedulers or [])
