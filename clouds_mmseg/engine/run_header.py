"""What a person wants to know about a run before its first number."""

from mmengine.model import BaseTTAModel, is_model_wrapper

from clouds_mmseg.engine.data_check import domain_counts
from clouds_mmseg.utils.device import device_name

# More domains than these are counted, not listed.
_MANY = 12


def bare_model(model):
    """The model inside wrappers of several processes and augmented tests.

    Args:
        model (nn.Module): Model of a runner.

    Returns:
        nn.Module: The segmentor.
    """
    while is_model_wrapper(model) or isinstance(model, BaseTTAModel):
        model = model.module
    return model


def run_header(runner, *splits):
    """Describe a run in a few lines.

    Args:
        runner (Runner): The runner, with its model built.
        *splits (str): The loops that will run: ``'train'``, ``'val'``,
            ``'test'``. Their datasets are built by this.

    Returns:
        str: Config, folder, device, model, images of each domain, schedule.
    """
    model = bare_model(runner.model)
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
            f'{trained / 1e6:.2f} M of them trained',
        ),
    ]
    if runner._load_from is not None:
        how = 'resume' if runner._resume else 'weights'
        rows.append((how, runner._load_from))
    for split in splits:
        loop = getattr(runner, f'{split}_loop')
        if loop is not None:
            counts = domain_counts(loop.dataloader.dataset)
            said = ', '.join(f'{k} {v}' for k, v in counts.items())
            if len(counts) > _MANY:
                said = f'{sum(counts.values())} images, {len(counts)} domains'
            rows.append((split, said))
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
