"""Options of a data loader that contradict each other, in one place.

torch's ``DataLoader`` refuses options that only worker processes have where
there are none: ``--cfg-options train_dataloader.num_workers=0``, the first
thing one tries to debug, ended in a traceback on every config that keeps
its workers alive.
"""

import difflib
import inspect

from torch.utils.data import DataLoader

from clouds_mmseg.utils.errors import UserError

# What only worker processes have.
_OF_WORKERS = (
    'persistent_workers',
    'prefetch_factor',
    'multiprocessing_context',
    'timeout',
)
# What mmengine's runner reads itself.
_OF_RUNNER = ('num_batch_per_epoch', 'disable_subprocess_warning')


def consistent_loader(loader: dict) -> dict:
    """Make the options of a loader agree, or say which do not.

    Args:
        loader (dict): ``train_dataloader`` or the like of a config; it is
            not changed.

    Returns:
        dict: A copy. Without workers it has no options of workers: what
        they read ahead, and how they start, changes no sample.

    Raises:
        UserError: An option is unknown, missing, of the wrong type, or
            excludes another one.
    """
    loader = dict(loader)
    known = [*inspect.signature(DataLoader).parameters, *_OF_RUNNER]
    for name in loader:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            raise UserError(
                f'a data loader has no option {name!r}'
                + (f'; did you mean {near[0]!r}?' if near else '')
                + f' It has {", ".join(known)}'
            )
    for name in ('dataset', 'sampler'):
        if loader.get(name) is None:
            raise UserError(
                f'a data loader of the config has no {name}; give '
                + (
                    "sampler=dict(type='DefaultSampler', shuffle=False), or "
                    "'InfiniteSampler' with shuffle=True for training"
                    if name == 'sampler'
                    else 'dataset=dict(type=...)'
                )
            )
    if loader.get('shuffle'):
        raise UserError(
            'shuffle=True of a data loader has no effect beside its sampler; '
            'give sampler=dict(type=..., shuffle=True)'
        )
    loader.pop('shuffle', None)
    workers = loader.get('num_workers', 0)
    if not _is_count(workers, least=0):
        raise UserError(
            f'num_workers={workers!r} of a data loader must be an integer of '
            'at least 0; 0 loads in the main process'
        )
    size = loader.get('batch_size', 1)
    if not _is_count(size, least=1):
        raise UserError(
            f'batch_size={size!r} of a data loader must be a positive integer'
        )
    if loader.get('batch_sampler') is not None and loader.get('drop_last'):
        raise UserError(
            'drop_last=True of a data loader has no effect beside its '
            'batch_sampler; give drop_last to the batch_sampler'
        )
    if workers == 0:
        for name in _OF_WORKERS:
            loader.pop(name, None)
    return loader


def _is_count(value, *, least):
    return (
        isinstance(value, int)
        and not isinstance(value, bool)
        and value >= least
    )
