"""Command line of ``clouds protocols`` and ``tools/compare_protocols.py``."""

import argparse

from clouds_mmseg_cli.names import PROTOCOLS
from clouds_mmseg_cli.options import add_common_arguments


def parse_args(
    argv: list[str] | None = None, prog: str | None = None
) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog=prog,
        description='Test a checkpoint under several evaluation protocols',
        epilog='Prints one column a protocol. The work dir gets '
        'protocols.json, and protocols/NAME/results.json of each.',
    )
    add_common_arguments(parser)
    parser.add_argument('checkpoint', help='checkpoint file')
    parser.add_argument(
        '--protocols',
        nargs='+',
        metavar='NAME',
        default=list(PROTOCOLS),
        help=f'default: all of {", ".join(PROTOCOLS)}',
    )
    parser.add_argument(
        '--benchmark',
        help='test the model of any config on the targets of gta2cs, syn2cs, '
        'cs2acdc or another file of configs/_base_/benchmarks',
    )
    return parser.parse_args(argv)


def main(argv: list[str] | None = None, prog: str | None = None) -> None:
    args = parse_args(argv, prog)
    from clouds_mmseg.cli.config import load_config, require_folder
    from clouds_mmseg.cli.config_check import require_sections
    from clouds_mmseg.cli.preflight import require_inputs
    from clouds_mmseg.cli.protocol_comparison import compare_protocols
    from clouds_mmseg.cli.test_options import disable_reinit
    from clouds_mmseg.evaluation.protocols import check_protocols

    check_protocols(args.protocols)
    cfg = load_config(args)
    require_sections(cfg, 'test')
    require_folder('--work-dir', cfg.work_dir)
    cfg.load_from = args.checkpoint
    cfg.resume = False
    disable_reinit(cfg)
    require_inputs(cfg, 'test')
    compare_protocols(cfg, args.protocols)
