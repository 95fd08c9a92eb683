"""Command line of ``clouds test`` and ``tools/test.py``."""

import argparse

from clouds_mmseg_cli.names import PROTOCOLS
from clouds_mmseg_cli.options import (
    add_common_arguments,
    add_corruption_arguments,
    add_export_arguments,
)


def parse_args(
    argv: list[str] | None = None, prog: str | None = None
) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog=prog, description='Test a segmentor')
    add_common_arguments(parser)
    parser.add_argument('checkpoint', help='checkpoint file')
    parser.add_argument(
        '--benchmark',
        help='test the model of any config on the targets of gta2cs, syn2cs, '
        'cs2acdc or another file of configs/_base_/benchmarks',
    )
    parser.add_argument(
        '--protocol',
        help="evaluate by a named protocol in place of the config's: "
        + ', '.join(PROTOCOLS),
    )
    parser.add_argument(
        '--out',
        help='folder for predictions as PNG files of class indices, or for '
        'the submission of --format-only',
    )
    parser.add_argument(
        '--show-dir',
        help='folder for visualizations of image, label and prediction',
    )
    parser.add_argument(
        '--show', action='store_true', help='open a window for each image'
    )
    parser.add_argument(
        '--wait-time',
        type=float,
        default=2,
        help='seconds that a window stays',
    )
    parser.add_argument(
        '--tta',
        action='store_true',
        help='average over test-time augmentations: the tta_pipeline of '
        'the config, or mirrored images',
    )
    parser.add_argument(
        '--amp', action='store_true', help='mixed precision (bfloat16)'
    )
    add_export_arguments(parser)
    add_corruption_arguments(parser)
    return parser.parse_args(argv)


def main(argv: list[str] | None = None, prog: str | None = None) -> None:
    args = parse_args(argv, prog)
    from clouds_mmseg.cli.config import (
        build_runner,
        load_config,
        require_folder,
    )
    from clouds_mmseg.cli.config_check import require_sections
    from clouds_mmseg.cli.preflight import require_inputs
    from clouds_mmseg.cli.test_options import (
        apply_corruption_arguments,
        apply_export_arguments,
        disable_reinit,
        enable_tta,
        predict_in_bf16,
        show_visualizations,
        write_predictions,
    )
    from clouds_mmseg.evaluation.protocols import apply_protocol
    from clouds_mmseg.utils.errors import naming

    cfg = load_config(args)
    require_sections(cfg, 'test')
    require_folder('--work-dir', cfg.work_dir)
    require_folder('--out', args.out)
    require_folder('--show-dir', args.show_dir)
    cfg.load_from = args.checkpoint
    cfg.resume = False
    disable_reinit(cfg)
    if args.protocol is not None:
        apply_protocol(cfg, args.protocol)
    apply_corruption_arguments(cfg, args)
    if args.format_only is not None:
        apply_export_arguments(cfg, args)
    elif args.out is not None:
        write_predictions(cfg, args.out)
    require_inputs(cfg, 'test')
    if args.show or args.show_dir is not None:
        show_visualizations(
            cfg,
            folder=args.show_dir,
            show=args.show,
            wait_time=args.wait_time,
        )
    if args.tta:
        enable_tta(cfg)
    if args.amp:
        predict_in_bf16(cfg)
    with naming(cfg.work_dir):
        build_runner(cfg).test()
