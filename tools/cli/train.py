"""Command line of ``clouds train`` and ``tools/train.py``."""

import argparse

from clouds_mmseg_cli.options import add_common_arguments


def parse_args(
    argv: list[str] | None = None, prog: str | None = None
) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog=prog, description='Train a segmentor'
    )
    add_common_arguments(parser)
    parser.add_argument(
        '--resume',
        nargs='?',
        const=True,
        default=False,
        metavar='CHECKPOINT',
        help='continue from the newest checkpoint of the work dir, '
        'or from the one given',
    )
    parser.add_argument(
        '--amp', action='store_true', help='mixed precision (bfloat16)'
    )
    parser.add_argument(
        '--check-data',
        action='store_true',
        help='verify the datasets like the command verify, do not train',
    )
    return parser.parse_args(argv)


def main(argv: list[str] | None = None, prog: str | None = None) -> None:
    args = parse_args(argv, prog)
    from clouds_mmseg.cli.config import (
        build_runner,
        enable_amp,
        load_config,
        require_folder,
    )
    from clouds_mmseg.cli.config_check import require_sections
    from clouds_mmseg.cli.data import config_command, config_tasks, verify_data
    from clouds_mmseg.cli.preflight import require_inputs
    from clouds_mmseg.utils.errors import naming

    cfg = load_config(args)
    if args.check_data:
        fine, report = verify_data(
            config_tasks(cfg), command=config_command(args)
        )
        print(report)
        raise SystemExit(0 if fine else 1)
    require_sections(cfg, 'train')
    if args.resume:
        cfg.resume = args.resume
    if args.amp:
        enable_amp(cfg)
    require_folder('--work-dir', cfg.work_dir)
    require_inputs(cfg, 'train')
    try:
        with naming(cfg.work_dir):
            build_runner(cfg).train()
    except KeyboardInterrupt:
        raise KeyboardInterrupt(
            'stopped by Ctrl-C; the same command with --resume continues from '
            f'the newest checkpoint in {cfg.work_dir}'
        ) from None
