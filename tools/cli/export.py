"""Export a trained model: ONNX, torch.export or OpenVINO, checked."""

import argparse

from clouds_mmseg_cli.names import (
    EXPORT_FORMATS,
    EXPORT_OUTPUTS,
    EXPORT_PRECISIONS,
)


def parse_args(
    argv: list[str] | None = None, prog: str | None = None
) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog=prog,
        description=__doc__,
        epilog='The program takes images (N, 3, H, W) uint8 RGB of any number '
        'and size, and returns labels (N, H, W) uint8 and scores. It is '
        'compared with torch; if too many labels differ, the command fails '
        'and writes nothing.',
    )
    parser.add_argument(
        'checkpoint', help='checkpoint of a training, or a published file'
    )
    parser.add_argument(
        '--out',
        required=True,
        help='.onnx, .pt2, or .xml for OpenVINO, which gets a .bin beside it',
    )
    parser.add_argument(
        '--format',
        choices=EXPORT_FORMATS,
        help='pt2: the file of torch.export (default: by the suffix)',
    )
    parser.add_argument(
        '--config', help='config to use instead of the one in the checkpoint'
    )
    parser.add_argument(
        '--outputs',
        nargs='+',
        choices=EXPORT_OUTPUTS,
        default=list(EXPORT_OUTPUTS),
        help='what the program returns (default: labels scores)',
    )
    parser.add_argument(
        '--precision',
        choices=EXPORT_PRECISIONS,
        default='fp32',
        help='fp16 and int8 for onnx and openvino (default: %(default)s)',
    )
    parser.add_argument(
        '--calibration',
        metavar='DIR',
        help='for int8: a folder of images like those it will see',
    )
    parser.add_argument(
        '--calibration-images',
        type=int,
        default=64,
        metavar='N',
        help='the most that are read of them (default: %(default)s)',
    )
    parser.add_argument(
        '--check',
        nargs='+',
        default=[],
        metavar='IMAGE',
        help='images, folders or patterns to compare with torch on (default: '
        'rendered street scenes of two sizes)',
    )
    parser.add_argument(
        '--min-equal',
        type=float,
        metavar='PERCENT',
        help='least share of equal labels (default: 99.9 for fp32, 99 for '
        'fp16, 95 for int8)',
    )
    parser.add_argument(
        '--opset',
        type=int,
        default=18,
        help='of ONNX, 18 to 23 (default: %(default)s)',
    )
    return parser.parse_args(argv)


def main(argv: list[str] | None = None, prog: str | None = None) -> None:
    args = parse_args(argv, prog)
    from clouds_mmseg.predict.export import export, export_lines

    done = export(
        args.checkpoint,
        args.out,
        format=args.format,
        config=args.config,
        outputs=args.outputs,
        precision=args.precision,
        calibration=args.calibration,
        calibration_images=args.calibration_images,
        check=args.check,
        min_equal=args.min_equal,
        opset=args.opset,
        log=lambda line: print(line, flush=True),
    )
    print('\n'.join(export_lines(done)))
