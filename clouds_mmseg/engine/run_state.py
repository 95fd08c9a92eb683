"""State of a run, for hooks and the log: model, phase, checkpoint, summary."""

from mmengine.model import BaseTTAModel, is_model_wrapper
from mmengine.runner import Runner
from torch import nn

from clouds_mmseg.engine.data_check import (
    domain_counts,
)
from clouds_mmseg.utils.device import device_name

# Datasets of more domains than this are summarised, not listed.
_MAX_LISTED_DOMAINS = 12


def unwrap_model(model: nn.Module) -> nn.Module:
    """Return the model inside distributed and test-time augmentation wrappers.

    Args:
        model: ``model`` of a runner.

    Returns:
        The segmentor.
    """
    while is_model_wrapper(model) or isinstance(model, BaseTTAModel):
        model = model.module
    return model


def is_training(runner: Runner) -> bool:
    """Return whether a runner has built its training loop.

    ``runner.train_loop`` and ``runner.iter`` would build the loop of a run
    that only validates or tests.
    """
    return hasattr(runner._train_loop, 'iter')


def checkpoint_path(runner: Runner) -> str | None:
    """Return the checkpoint that a run starts from or resumes, if any."""
    return runner._load_from


def run_header(runner: Runner, *splits: str) -> str:
    """Summarise a run for the log.

    Args:
        runner: The runner, with its model built.
        *splits: The loops that will run: ``'train'``, ``'val'``, ``'test'``.
            Their datasets are built by this.

    Returns:
        Config, folder, device, model, images of each domain, schedule.
    """
    model = unwrap_model(runner.model)
    parameters = list(model.parameters())
    total = sum(p.numel() for p in parameters)
    trained = sum(p.numel() for p in parameters if p.requires_grad)
    device = device_name()
    if runner.world_size > 1:
        device += f', {runner.world_size} processes'
    rows = [
        ('config', runner.cfg.filename),
        ('work dir', runner.work_dir),
        ('device', device),
        (
            'model',
            f'{type(model).__name__}, {total / 1e6:.2f} M parameters, '
            f'{trained / 1e6:.2f} M trainable',
        ),
    ]
    path = checkpoint_path(runner)
    if path is not None:
        rows.append(('resume' if runner._resume else 'weights', path))
    for split in splits:
        loop = getattr(runner, f'{split}_loop')
        if loop is not None:
            counts = domain_counts(loop.dataloader.dataset)
            text = ', '.join(f'{k} {v}' for k, v in counts.items())
            if len(counts) > _MAX_LISTED_DOMAINS:
                text = f'{sum(counts.values())} images, {len(counts)} domains'
            rows.append((split, text))
    if 'train' in splits:
        batch = runner.train_dataloader.batch_size
        rows.append(
            (
                'schedule',
                f'{runner.max_iters} iterations, batch {batch}'
                f' x {runner.world_size}, seed {runner.seed}',
            )
        )
    return 'The run:' + ''.join(f'\n  {k:<9} {v}' for k, v in rows)
