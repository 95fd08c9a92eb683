"""From command line options to a config, for tools/train.py and test.py."""

import gc
import logging
import os
import os.path as osp
from pathlib import Path

from mmengine.logging import print_log
from mmseg.registry import RUNNERS

from clouds_mmseg.datasets.data_root import DATA_ROOT_VARIABLE
from clouds_mmseg.datasets.verify.report_file import REPORT_DIR_VARIABLE
from clouds_mmseg.engine.benchmark_options import on_benchmark
from clouds_mmseg.engine.config_check import apply_options, check_config
from clouds_mmseg.engine.dataset_options import (
    apply_dataset_options,
    warn_of_test_left_behind,
)
from clouds_mmseg.engine.zoo_config import read_config
from clouds_mmseg.utils.errors import UserError
from clouds_mmseg.utils.pretrained import use_pretrained_dir

# Scripts import these from here as well.
from clouds_mmseg_cli.errors import plain_errors  # noqa: F401
from clouds_mmseg_cli.options import (  # noqa: F401
    add_common_arguments,
    add_pretrained_dir,
    add_report_dir,
)

# Launcher -> what it sets in each process that it starts.
_RANKS = dict(
    pytorch='RANK', slurm='SLURM_PROCID', mpi='OMPI_COMM_WORLD_LOCAL_RANK'
)


def use_report_dir(folder):
    """Keep reports about data in a folder, for this process and its children.

    Args:
        folder (str, optional): None leaves the environment as it is.
    """
    if folder is not None:
        os.environ[REPORT_DIR_VARIABLE] = osp.abspath(folder)


def load_config(args):
    """Read a config and apply the common options.

    Args:
        args (argparse.Namespace): Options of
            :func:`add_common_arguments`, and ``benchmark`` where a tool has
            it.

    Returns:
        Config: With ``work_dir`` and ``launcher`` set.

    Raises:
        UserError: The config, a folder or the benchmark does not exist, or
            the config or an option has a name that nobody reads.
    """
    variable = _RANKS.get(args.launcher)
    if variable is not None and variable not in os.environ:
        raise UserError(
            f'--launcher {args.launcher} is for a process that the launcher '
            f'has started, and {variable} is not set; start the run with '
            'tools/dist_train.sh, torchrun, srun or mpirun, or leave '
            '--launcher out for one process'
        )
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    if args.data_root is not None:
        if not osp.isdir(args.data_root):
            raise UserError(
                f'--data-root {args.data_root}: there is no such folder; '
                "give the folder that stands in for 'data'"
            )
        os.environ[DATA_ROOT_VARIABLE] = osp.abspath(args.data_root)
    use_report_dir(getattr(args, 'report_dir', None))
    use_pretrained_dir(getattr(args, 'pretrained_dir', None))
    cfg = read_config(args.config)
    name = Path(args.config).stem
    benchmark = getattr(args, 'benchmark', None)
    if benchmark is not None:
        cfg = on_benchmark(cfg, benchmark)
        name = f'{name}_on_{Path(benchmark).stem}'
    cfg.launcher = args.launcher
    options = args.cfg_options or {}
    apply_options(cfg, options)
    warning = warn_of_test_left_behind(cfg, options)
    if warning:
        print_log(warning, level=logging.WARNING)
    apply_dataset_options(cfg)
    check_config(cfg)
    if args.work_dir is not None:
        cfg.work_dir = args.work_dir
    elif cfg.get('work_dir') is None:
        cfg.work_dir = osp.join('work_dirs', name)
    return cfg


def require_folder(option, folder):
    """Refuse an output folder that cannot be one, before the work is done.

    Args:
        option (str): Which option or key named it.
        folder (str | None): The folder, which may not exist yet; None
            passes.

    Raises:
        UserError: It is a file, or may not be written to.
    """
    if folder is None:
        return
    there = Path(folder).expanduser().absolute()
    while not there.exists():
        there = there.parent
    if not there.is_dir():
        raise UserError(f'{option} {folder}: {there} is a file; give a folder')
    if not os.access(there, os.W_OK | os.X_OK):
        raise UserError(
            f'{option} {folder}: no permission to write in {there}; give '
            'another folder'
        )


def enable_amp(cfg):
    """Train in mixed precision (bfloat16), in place.

    Args:
        cfg (Config): The config.

    Raises:
        UserError: The config has an optimiser wrapper of another kind.
    """
    if not cfg.get('optim_wrapper'):
        raise UserError(
            '--amp sets the precision of training, and the config has no '
            'optim_wrapper; give a config that trains'
        )
    wrapper = cfg.optim_wrapper.get('type', 'OptimWrapper')
    if wrapper in ('BF16OptimWrapper', 'AmpOptimWrapper'):
        return
    if wrapper != 'OptimWrapper':
        raise UserError(
            '--amp replaces an optim_wrapper of type OptimWrapper, but the '
            f'config has {wrapper}; set the precision in the config'
        )
    cfg.optim_wrapper.type = 'BF16OptimWrapper'


def dataset_configs(dataset):
    """The configs of the datasets inside wrappers and concatenations.

    Args:
        dataset (ConfigDict): ``dataset`` of a dataloader.

    Yields:
        ConfigDict: Those that have a pipeline of their own.
    """
    inner = [*(dataset.get('datasets') or []), dataset.get('dataset')]
    for child in inner:
        if child is not None:
            yield from dataset_configs(child)
    if not any(inner):
        yield dataset


def build_runner(cfg):
    """Build the runner that a config asks for.

    Args:
        cfg (Config): The config. ``runner_type`` defaults to ``DGRunner``.

    Returns:
        Runner: Ready to train or test.
    """
    cfg.setdefault('runner_type', 'DGRunner')
    # Each dataset collects garbage when it packs its index, which takes
    # most of a second through all that was imported. What is frozen is not
    # searched, and not copied by the memory pages of forked workers.
    gc.freeze()
    return RUNNERS.build(cfg)
