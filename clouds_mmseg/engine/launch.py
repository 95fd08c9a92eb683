"""From command line options to a config, for tools/train.py and test.py."""

import gc
import linecache
import logging
import os
import os.path as osp
import sys
import traceback
from contextlib import contextmanager
from pathlib import Path

from mmengine.config import DictAction
from mmengine.logging import print_log
from mmseg.registry import RUNNERS

from clouds_mmseg.compat import IncompatibleStackError
from clouds_mmseg.datasets.data_root import DATA_ROOT_VARIABLE
from clouds_mmseg.datasets.verify.report_file import REPORT_DIR_VARIABLE
from clouds_mmseg.engine.benchmark_options import on_benchmark
from clouds_mmseg.engine.dataset_options import (
    apply_dataset_options,
    warn_of_test_left_behind,
)
from clouds_mmseg.engine.zoo_config import read_config
from clouds_mmseg.utils.errors import UserError
from clouds_mmseg.utils.pretrained import use_pretrained_dir

_PACKAGE = str(Path(__file__).resolve().parents[1])


def add_common_arguments(parser):
    """Add the options that training and test share with MMSegmentation.

    Args:
        parser (argparse.ArgumentParser): Receives them.
    """
    parser.add_argument(
        'config', help="config file, or mmseg::NAME of MMSegmentation's zoo"
    )
    parser.add_argument(
        '--work-dir',
        help='folder for logs, checkpoints and results; '
        'default: work_dirs/<name of the config>',
    )
    parser.add_argument(
        '--data-root',
        help='folder that holds the data sets, in place of ./data',
    )
    add_report_dir(parser)
    add_pretrained_dir(parser)
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=DictAction,
        help='override settings of the config: key=value, '
        'key="[a,b]", train_cfg.max_iters=100',
    )
    parser.add_argument(
        '--launcher',
        choices=['none', 'pytorch', 'slurm', 'mpi'],
        default='none',
        help='how the processes of a distributed run are started',
    )
    # torchrun sets LOCAL_RANK; torch.distributed.launch passes an option.
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0)


def add_report_dir(parser):
    """Add the option that names a folder for reports about data.

    Args:
        parser (argparse.ArgumentParser): Receives it; what it is given is
            for :func:`use_report_dir`.
    """
    parser.add_argument(
        '--report-dir',
        metavar='DIR',
        help='folder for what verification finds and counts, where the data '
        f'is read-only; default: {REPORT_DIR_VARIABLE}, or beside the data',
    )


def use_report_dir(folder):
    """Keep reports about data in a folder, for this process and its children.

    Args:
        folder (str, optional): None leaves the environment as it is.
    """
    if folder is not None:
        os.environ[REPORT_DIR_VARIABLE] = osp.abspath(folder)


def add_pretrained_dir(parser):
    """Add the option that names the folder of pretrained weights.

    Args:
        parser (argparse.ArgumentParser): Receives it; what it is given is
            for :func:`~clouds_mmseg.utils.pretrained.use_pretrained_dir`.
    """
    parser.add_argument(
        '--pretrained-dir',
        metavar='DIR',
        help='folder in which pretrained weights are looked up before any '
        'hub is asked; default: CLOUDS_PRETRAINED_DIR',
    )


def load_config(args):
    """Read a config and apply the common options.

    Args:
        args (argparse.Namespace): Options of
            :func:`add_common_arguments`, and ``benchmark`` where a tool has
            it.

    Returns:
        Config: With ``work_dir`` and ``launcher`` set.

    Raises:
        UserError: The config, a folder or the benchmark does not exist.
    """
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
    if args.cfg_options is not None:
        cfg.merge_from_dict(args.cfg_options)
        warning = warn_of_test_left_behind(cfg, args.cfg_options)
        if warning:
            print_log(warning, level=logging.WARNING)
    apply_dataset_options(cfg)
    if args.work_dir is not None:
        cfg.work_dir = args.work_dir
    elif cfg.get('work_dir') is None:
        cfg.work_dir = osp.join('work_dirs', name)
    return cfg


def enable_amp(cfg):
    """Train in mixed precision (bfloat16), in place.

    Args:
        cfg (Config): The config.

    Raises:
        UserError: The config has an optimiser wrapper of another kind.
    """
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


def _raised_on_purpose(error):
    """Whether this package raised an error by a ``raise`` statement."""
    frames = traceback.extract_tb(error.__traceback__)
    if not frames:
        return False
    last = frames[-1]
    line = linecache.getline(last.filename, last.lineno or 0)
    return last.filename.startswith(_PACKAGE) and line.strip().startswith(
        'raise '
    )


@contextmanager
def plain_errors():
    """Print mistakes of the user as one message and exit with status 1.

    Those are :class:`UserError`, files that do not exist, and whatever this
    package raises deliberately. Anything else is a defect and keeps its
    traceback. ``CLOUDS_TRACEBACK=1`` keeps every traceback.

    Raises:
        SystemExit: With status 1, after the message.
    """
    try:
        yield
    except Exception as error:
        mistake = isinstance(
            error, (UserError, FileNotFoundError, IncompatibleStackError)
        )
        if os.environ.get('CLOUDS_TRACEBACK') or not (
            mistake or _raised_on_purpose(error)
        ):
            raise
        # str() of a KeyError is the repr of its message.
        message = error.args[0] if isinstance(error, KeyError) else error
        rank = os.environ.get('RANK')
        where = f' (process {rank})' if rank not in (None, '0') else ''
        print(f'error{where}: {message}', file=sys.stderr)
        raise SystemExit(1) from None
