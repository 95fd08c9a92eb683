"""Open every file of a dataset and report bad ones.

For example: %(prog)s gta5, or %(prog)s --config CONFIG
"""

import argparse
import shlex

from clouds_mmseg_cli.cfg_options import CfgOptions
from clouds_mmseg_cli.names import VERIFIED_SETS as SETS
from clouds_mmseg_cli.options import add_report_dir, add_sharing_arguments


def parse_args(
    argv: list[str] | None = None, prog: str | None = None
) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog=prog,
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog='The exit status is 1 if there are errors that are neither '
        'fixed nor accepted: training then refuses the data.',
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument('name', nargs='?', help=', '.join(SETS))
    what.add_argument('--config', help='verify the datasets of a config')
    parser.add_argument(
        '--data-root',
        help='with NAME: its folder or address, by default data/NAME; with '
        "--config: the folder that stands in for 'data'",
    )
    add_report_dir(parser)
    parser.add_argument(
        '--workers', type=int,
        help='processes; default: one a core, with --shared one',
    )  # fmt: skip
    add_sharing_arguments(parser)
    action = parser.add_mutually_exclusive_group()
    action.add_argument(
        '--fix',
        dest='action',
        action='store_const',
        const='fix',
        help='move bad pairs to quarantine/ and have datasets skip them',
    )
    action.add_argument(
        '--accept',
        dest='action',
        action='store_const',
        const='accept',
        help='let training use the data in spite of these errors',
    )
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=CfgOptions,
        help='with --config: override its settings',
    )
    parser.set_defaults(work_dir=None, launcher='none', local_rank=0)
    args = parser.parse_args(argv)
    if args.shared and args.action:
        parser.error(
            f'--shared reads the files; --{args.action} decides afterwards, '
            'as one process, without reading them again'
        )
    return args


def main(argv: list[str] | None = None, prog: str | None = None) -> None:
    args = parse_args(argv, prog)
    from mmengine.registry import init_default_scope

    from clouds_mmseg.cli.config import load_config, use_report_dir
    from clouds_mmseg.cli.data import config_command, config_tasks, verify_data
    from clouds_mmseg.data_tools.verify import named_tasks
    from clouds_mmseg.utils.data_root import resolve_data_root

    if args.config:
        tasks = config_tasks(load_config(args))
        command = config_command(args)
    else:
        init_default_scope('mmseg')
        use_report_dir(args.report_dir)
        root = args.data_root or resolve_data_root(f'data/{args.name}')
        tasks = named_tasks(args.name, root)
        words = ['clouds', 'verify', args.name]
        if args.data_root:
            words += ['--data-root', args.data_root]
        if args.report_dir:
            words += ['--report-dir', args.report_dir]
        command = shlex.join(words)
    fine, text = verify_data(
        tasks,
        command=command,
        workers=args.workers,
        action=args.action,
        shared=args.shared,
        lease=args.lease,
    )
    print(text)
    raise SystemExit(0 if fine else 1)
