"""Groups of command line options shared by the tools."""

import argparse

from clouds_mmseg_cli.cfg_options import CfgOptions
from clouds_mmseg_cli.names import LEASE_SECONDS


def add_common_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that training and test share with MMSegmentation.

    Args:
        parser: Parser to extend.
    """
    parser.add_argument(
        'config',
        help='config file, clouds_mmseg::NAME of this package, or '
        "mmseg::NAME of MMSegmentation's zoo",
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
        action=CfgOptions,
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


def add_report_dir(parser: argparse.ArgumentParser) -> None:
    """Add the option that names a folder for reports about data.

    Args:
        parser: Parser to extend; the value is passed to
            :func:`~clouds_mmseg.cli.config.use_report_dir`.
    """
    parser.add_argument(
        '--report-dir',
        metavar='DIR',
        help='folder for reports of verification, for read-only data; '
        'default: CLOUDS_REPORT_DIR, or beside the data',
    )


def add_pretrained_dir(parser: argparse.ArgumentParser) -> None:
    """Add the option that names the folder of pretrained weights.

    Args:
        parser: Parser to extend; the value is passed to
            :func:`~clouds_mmseg.weights.locate.use_pretrained_dir`.
    """
    parser.add_argument(
        '--pretrained-dir',
        metavar='DIR',
        help='folder that is searched for pretrained weights before any '
        'download; default: CLOUDS_PRETRAINED_DIR',
    )


def add_sharing_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options by which any number of processes share one result.

    Args:
        parser: Parser to extend.
    """
    group = parser.add_argument_group('sharing the work')
    group.add_argument(
        '--shared', action='store_true',
        help='every process that is started with this same command, on any '
        'machine that has the folder, takes parts of the work until it is '
        'done; those of a process that stops are done by others',
    )  # fmt: skip
    group.add_argument(
        '--lease', type=float, default=LEASE_SECONDS, metavar='SECONDS',
        help='with --shared: after which a part is taken over from a process '
        'of another machine that gives no sign of life (default: '
        '%(default)g)',
    )  # fmt: skip


def add_export_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the option for test servers.

    Args:
        parser: Parser to extend.
    """
    parser.add_argument(
        '--format-only',
        nargs='?',
        const='test',
        choices=['test', 'val'],
        metavar='SPLIT',
        help='measure nothing, but predict the test split (or val, as a '
        'rehearsal) and write the zip file that the server of Cityscapes or '
        'ACDC takes, to --out or <work dir>/submission',
    )


def add_corruption_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options about corruptions.

    Args:
        parser: Parser to extend.
    """
    group = parser.add_argument_group(
        'common corruptions',
        'test on one data set under fifteen corruptions at five severities; '
        'with the domain cityscapes this is Cityscapes-C',
    )
    group.add_argument(
        '--corrupt',
        metavar='DOMAIN',
        help='test set of the config that is corrupted, such as cityscapes',
    )
    group.add_argument(
        '--corrupted-images',
        metavar='FOLDER',
        help='output of the command corrupt; without it the images are '
        'corrupted as they are read',
    )
    group.add_argument(
        '--corruptions',
        nargs='+',
        help='names, or categories: noise blur weather digital; default all',
    )
    group.add_argument(
        '--severities', nargs='+', type=int, help='1 to 5; default all'
    )
