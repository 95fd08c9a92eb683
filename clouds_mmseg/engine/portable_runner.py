"""Runner with CPU and gloo support, in one process or several."""

import contextlib
import copy
import functools
import importlib.util
import inspect
import itertools
import logging
import os
import platform
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from mmengine.dist import broadcast_object_list, is_main_process
from mmengine.logging import MMLogger
from mmengine.model import revert_sync_batchnorm
from mmengine.runner import Runner
from mmengine.visualization import Visualizer
from torch import nn
from torch.utils.data import DataLoader

from clouds_mmseg.engine.lost_ranks import as_timeout, introduce
from clouds_mmseg.engine.sharding import is_sharded, refuse_other_averages
from clouds_mmseg.utils.atomic import atomic_path
from clouds_mmseg.utils.errors import UserError
from clouds_mmseg.utils.locks import ProcessLock
from clouds_mmseg.utils.options import near_names

# In the work dir while a training runs.
_LOCK_FILE = 'training.lock'
# Loader options that only apply to worker processes.
_WORKER_OPTIONS = (
    'persistent_workers',
    'prefetch_factor',
    'multiprocessing_context',
    'timeout',
)
# Prefixes of mmengine's messages that are written to the log file only: on a
# terminal they would push the run's own lines off the screen.
_FILE_ONLY = (
    '-' * 60,  # the environment
    'Config:\n',
    'Hooks will be executed',
    'paramwise_options -- ',
    'Distributed training is not used',
    'Exp name:',
    'Checkpoints will be saved to',
    'Advance dataloader',
    '"FileClient" will be deprecated',
    '"HardDiskBackend" is the alias',
    'The prefix is not set in metric class',
    'Stopped: ',  # The tool prints the error itself.
)
# Logged for every frozen parameter; the run header counts them.
_FILE_ONLY_ENDINGS = ('is skipped since its requires_grad=False',)
# Loader options that mmengine's runner reads itself.
_RUNNER_OPTIONS = ('num_batch_per_epoch', 'disable_subprocess_warning')


def consistent_loader(loader: dict) -> dict:
    """Validate the options of a data loader and drop ineffective ones.

    Args:
        loader: ``train_dataloader`` or the like of a config; it is not
            changed.

    Returns:
        A copy, without worker options if there are no workers: prefetching and
        start method change no sample.

    Raises:
        UserError: An option is unknown, missing, of the wrong type, or
            excludes another one.
    """
    loader = dict(loader)
    known = [*inspect.signature(DataLoader).parameters, *_RUNNER_OPTIONS]
    for name in loader:
        if name not in known:
            raise UserError(
                f'a data loader has no option {name!r}'
                + near_names([name], known)
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
        for name in _WORKER_OPTIONS:
            loader.pop(name, None)
    return loader


def _is_count(value, *, least):
    return (
        isinstance(value, int)
        and not isinstance(value, bool)
        and value >= least
    )


def _refusal(work_dir, lock):
    """Say that a work dir has another training."""
    return (
        f'another training runs in the work dir {work_dir} '
        f'({lock.read_note() or "an unknown process"}), and two would '
        "replace one another's checkpoints; wait for it, stop it, or give "
        'another folder: --work-dir'
    )


class TerminalFilter(logging.Filter):
    """Keep the framework's long or repeated messages off the terminal.

    Attributes:
        hidden (set[str]): Further prefixes of messages to hide, for a progress
            line that shows the same.
    """

    def __init__(self):
        super().__init__()
        self.hidden = set()

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether a record is shown on the terminal.

        Args:
            record: Record of the run's logger.

        Returns:
            Whether it is shown.
        """
        if record.levelno >= logging.ERROR:
            return True
        message = record.getMessage().strip()
        return not (
            message.startswith((*_FILE_ONLY, *self.hidden))
            or message.endswith(_FILE_ONLY_ENDINGS)
        )


def terminal_handlers(logger: logging.Logger) -> list[logging.StreamHandler]:
    """Return handlers of a logger that write to a terminal or a redirect.

    Args:
        logger: The run's logger.

    Returns:
        Without handlers that write to files.
    """
    return [
        handler
        for handler in logger.handlers
        if isinstance(handler, logging.StreamHandler)
        and not isinstance(handler, logging.FileHandler)
    ]


def install_terminal_filter(logger: logging.Logger) -> TerminalFilter:
    """Filter the terminal output of a logger.

    Args:
        logger: The run's logger.

    Returns:
        The filter, installed once however often called.
    """
    terminal = next(
        (
            f
            for handler in terminal_handlers(logger)
            for f in handler.filters
            if isinstance(f, TerminalFilter)
        ),
        None,
    )
    if terminal is None:
        terminal = TerminalFilter()
        for handler in terminal_handlers(logger):
            handler.addFilter(terminal)
    return terminal


def warn_once_of_lost_lines(logger: logging.Logger) -> None:
    """Let a logger whose file cannot be written say so in one line.

    logging prints a traceback for each line that it loses. The run goes on:
    lines of a log are no reason to lose iterations.

    Args:
        logger: The run's logger.
    """
    told = []

    def handle(handler, report, record):
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            report(record)
        elif not told:
            told.append(error)
            where = getattr(handler, 'baseFilename', None) or 'the terminal'
            with contextlib.suppress(OSError):
                print(
                    f'warning: lines of the log are lost: {where}: '
                    f'{error.strerror}',
                    file=sys.stderr,
                )

    for handler in logger.handlers:
        handler.handleError = functools.partial(  # type: ignore[method-assign]
            handle, handler, handler.handleError
        )


class PortableRunner(Runner):
    """mmengine's runner with CPU and gloo support.

    - Distributed runs work without a GPU (gloo).
    - ``total_batch_size`` of the config is divided among the processes, so
      that a schedule has the same effect on one GPU and on eight.
    - Scalars go to TensorBoard where it is installed.
    - The terminal shows a short log; the log file is complete.
    """

    @property
    def is_training(self) -> bool:
        """Whether the training loop is built.

        ``train_loop`` and ``iter`` would build the loop of a run that only
        validates or tests.
        """
        return hasattr(self._train_loop, 'iter')

    @property
    def start_checkpoint(self) -> str | None:
        """Checkpoint that the run starts from or resumes, if any."""
        return self._load_from

    @property
    def is_resumed(self) -> bool:
        """Whether the run continues ``start_checkpoint``."""
        return bool(self._resume)

    def setup_env(self, env_cfg: dict) -> None:
        """Set up distributed training, with gloo where there is no GPU.

        Args:
            env_cfg: ``env_cfg`` of the config.

        Raises:
            UserError: A launcher other than ``pytorch`` without a GPU, or
                ``dist_cfg.timeout`` is no number of seconds.
        """
        distributed = torch.distributed
        timeout = as_timeout((env_cfg.get('dist_cfg') or {}).get('timeout'))
        if (
            self.distributed
            and not torch.cuda.is_available()
            and not distributed.is_initialized()
        ):
            # mmengine's init_dist selects a CUDA device first.
            if self._launcher != 'pytorch':
                raise UserError(
                    f'--launcher {self._launcher} needs a GPU and none is '
                    'available; use --launcher pytorch on CPU'
                )
            distributed.init_process_group(backend='gloo', timeout=timeout)
        super().setup_env(env_cfg)
        introduce()
        self._timestamp = self._unique_timestamp(self._timestamp)

    def _unique_timestamp(self, timestamp: str) -> str:
        """Reserve a log folder, whose name also identifies the experiment.

        mmengine names both after the second in which a run starts. Runs of
        one process that start in the same second would share logger, message
        hub and visualizer; those of one work dir their log file.

        Args:
            timestamp: ``YYYYmmdd_HHMMSS``, as mmengine sets it.

        Returns:
            The same, or with ``_1``, ``_2``, ... if it is taken.
        """
        names = [timestamp]
        if is_main_process():
            for number in itertools.count():
                name = f'{timestamp}_{number}' if number else timestamp
                # Names of experiments end with the timestamp.
                if any(n.endswith(name) for n in MMLogger._instance_dict):
                    continue
                try:
                    os.makedirs(os.path.join(self.work_dir, name))
                except FileExistsError:
                    continue
                names = [name]
                break
        broadcast_object_list(names)
        return names[0]

    @contextlib.contextmanager
    def _own_work_dir(self) -> Iterator[None]:
        """Keep other trainings out of the work dir.

        Two would remove one another's checkpoints, and the later
        ``last_checkpoint`` would be that of either.
        """
        lock = ProcessLock(Path(self.work_dir) / _LOCK_FILE)
        refusal = [None]
        if is_main_process():
            if lock.acquire(wait=False):
                begun = time.strftime('%Y-%m-%d %H:%M:%S')
                lock.note(
                    f'process {os.getpid()} on {platform.node()}, since '
                    f'{begun}'
                )
            else:
                refusal = [_refusal(self.work_dir, lock)]
        broadcast_object_list(refusal)
        if refusal[0] is not None:
            raise UserError(refusal[0])
        try:
            yield
        finally:
            if is_main_process():
                lock.release(remove=True)

    def dump_config(self) -> None:
        """Write the config, but not over that of a training that runs."""
        if not is_main_process():
            return
        lock = ProcessLock(Path(self.work_dir) / _LOCK_FILE)
        if lock.path.exists():
            if not lock.acquire(wait=False):
                return
            lock.release()
        name = self.cfg.filename or f'{self.timestamp}.py'
        # Not mmengine's, which on a full disk leaves an empty file.
        path = Path(self.work_dir, Path(name).name)
        with atomic_path(path) as temporary:
            self.cfg.dump(str(temporary))

    def build_logger(self, *args: Any, **kwargs: Any) -> MMLogger:
        """Build the logger, with a filter on its terminal output."""
        logger = super().build_logger(*args, **kwargs)
        install_terminal_filter(logger)
        warn_once_of_lost_lines(logger)
        return logger

    @staticmethod
    def build_dataloader(
        dataloader: DataLoader | dict, *args: Any, **kwargs: Any
    ) -> DataLoader:
        """Build a data loader after validating its options.

        Args:
            dataloader: As for mmengine; see :func:`consistent_loader`.
            *args: As for mmengine.
            **kwargs: As for mmengine.

        Returns:
            The loader.
        """
        if isinstance(dataloader, dict):
            dataloader = consistent_loader(dataloader)
        return Runner.build_dataloader(dataloader, *args, **kwargs)

    def build_visualizer(
        self, visualizer: Visualizer | dict | None = None
    ) -> Visualizer:
        """Build the visualizer, with TensorBoard where it is installed.

        Args:
            visualizer: As for mmengine.

        Returns:
            The visualizer.
        """
        if isinstance(visualizer, dict):
            visualizer = copy.deepcopy(visualizer)
            backends = visualizer.get('vis_backends') or []
            types = [backend.get('type') for backend in backends]
            if (
                'TensorboardVisBackend' not in types
                and importlib.util.find_spec('tensorboard') is not None
            ):
                backends.append(dict(type='TensorboardVisBackend'))
                visualizer['vis_backends'] = backends
        return super().build_visualizer(visualizer)

    def wrap_model(
        self, model_wrapper_cfg: dict | None, model: nn.Module
    ) -> nn.Module:
        """Move the model to its device and wrap it for distributed training.

        Args:
            model_wrapper_cfg: As for mmengine.
            model: The model.

        Returns:
            The model, wrapped in a distributed run.
        """
        of_ddp = 'DistributedDataParallel' in str(
            (model_wrapper_cfg or {}).get('type', 'MMDistributedDataParallel')
        )
        if self.distributed and of_ddp and not torch.cuda.is_available():
            # mmengine gives each process the GPU of its local rank.
            model_wrapper_cfg = dict(
                model_wrapper_cfg
                or dict(
                    broadcast_buffers=False,
                    find_unused_parameters=self.cfg.get(
                        'find_unused_parameters', False
                    ),
                ),
                device_ids=None,
            )
            # Configs of MMSegmentation's zoo use SyncBN, which needs GPUs.
            model = revert_sync_batchnorm(model)
        return super().wrap_model(model_wrapper_cfg, model)

    def _init_model_weights(self) -> None:
        """Initialise the weights, then shard them if they are to be."""
        super()._init_model_weights()
        if is_sharded(self.model):
            refuse_other_averages(self.hooks)
            self.model.shard(self.optim_wrapper)

    def _split_batch_size(self):
        """Divide ``total_batch_size`` among the processes."""
        total = self.cfg.get('total_batch_size')
        if total is None or not isinstance(self._train_dataloader, dict):
            return
        if 'batch_size' in self._train_dataloader:
            raise UserError(
                f'the config has total_batch_size={total} and '
                'train_dataloader.batch_size='
                f'{self._train_dataloader["batch_size"]}; give one of them: '
                '--cfg-options total_batch_size=N, images over all processes'
            )
        if total % self.world_size:
            raise UserError(
                f'total_batch_size={total} cannot be divided among '
                f'{self.world_size} processes; give '
                '--cfg-options total_batch_size=N with a multiple of '
                f'{self.world_size}, and a learning rate that suits it'
            )
        self._train_dataloader['batch_size'] = total // self.world_size
