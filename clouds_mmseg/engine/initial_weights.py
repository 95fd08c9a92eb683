"""The weights that training starts from, found before anything else."""

from mmengine.logging import print_log

from clouds_mmseg.checkpoints.files import read_state_dict
from clouds_mmseg.engine.resume import is_remote
from clouds_mmseg.utils.errors import UserError
from clouds_mmseg.utils.zoo_address import fetch_checkpoint

_SHOWN = 5


def fetch_initial_weights(model, *, overwritten=lambda part: False):
    """Make the pretrained weights of a config local files.

    The configs of MMSegmentation's zoo name them by address
    (``init_cfg=dict(type='Pretrained', checkpoint='https://...')``,
    ``pretrained='torchvision://resnet50'``). mmengine would fetch them when
    all datasets are open, run code that a pickle carries, and take whatever
    of them fits.

    Args:
        model (nn.Module): Its modules' ``init_cfg`` are changed.
        overwritten (Callable[[str], bool]): Whether a checkpoint fills the
            module of a name afterwards: it needs no pretrained weights.

    Raises:
        MissingWeightsError: A file is not here and cannot be fetched.
        WeightFileError: Nothing can be read from it.
        UserError: It holds no weight of its module.
    """
    for name, module in model.named_modules():
        init_cfg = getattr(module, 'init_cfg', None)
        several = isinstance(init_cfg, (list, tuple))
        given = list(init_cfg) if several else [init_cfg] if init_cfg else []
        wanted = [cfg for cfg in given if cfg.get('type') == 'Pretrained']
        if wanted and overwritten(name):
            module.init_cfg = [cfg for cfg in given if cfg not in wanted]
            continue
        for cfg in wanted:
            cfg['checkpoint'] = _local(cfg['checkpoint'], name)
            _compare(module, name, cfg)


def _local(checkpoint, name):
    """Return the path of a checkpoint."""
    if not is_remote(checkpoint):
        return checkpoint
    return str(fetch_checkpoint(checkpoint, f'model.{name}') or checkpoint)


def _compare(module, name, cfg):
    """Say how much of a module a file has; nothing of it is a mistake."""
    path = cfg['checkpoint']
    if is_remote(path):
        return
    prefix = cfg.get('prefix') or 'backbone.'
    stored = {key.removeprefix(prefix) for key in read_state_dict(path)}
    # Counters change no output, and old files do not have them.
    own = [k for k in module.state_dict() if not k.endswith('_tracked')]
    absent = [key for key in own if key not in stored]
    if len(absent) == len(own):
        raise UserError(
            f'{path} holds no weight of model.{name} '
            f'({type(module).__name__}): it has {_some(sorted(stored))}, '
            f'wanted are {_some(own)}; give the weights of this architecture'
        )
    print_log(
        f'model.{name} starts from {path}: {len(own) - len(absent)} of '
        f'{len(own)} tensors'
        + (f'; random are {_some(absent)}' if absent else ''),
        logger='current',
    )


def _some(keys):
    """The first of some keys."""
    more = f' and {len(keys) - _SHOWN} more' if len(keys) > _SHOWN else ''
    return ', '.join(keys[:_SHOWN]) + more
