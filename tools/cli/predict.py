"""Predict images with a trained model: files, folders and patterns."""

import argparse

from clouds_mmseg_cli.names import PREDICTION_KINDS


def parse_args(
    argv: list[str] | None = None, prog: str | None = None
) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog=prog,
        description=__doc__,
        epilog='The same command again continues: images whose results exist '
        'are left out.',
    )
    parser.add_argument(
        'checkpoint', help='checkpoint of a training, or a published file'
    )
    parser.add_argument(
        'inputs',
        nargs='+',
        metavar='input',
        help='images, folders (with their sub-folders), or patterns such as '
        '"street/*.jpg"',
    )
    parser.add_argument(
        '--out', required=True, help='folder of the results: KIND/PATH.png'
    )
    parser.add_argument(
        '--save',
        nargs='+',
        choices=PREDICTION_KINDS,
        default=['labels', 'overlay'],
        help='labels: class indices in a grey PNG; color: in the colours of '
        'the classes; overlay: these over the image; confidence: 0 to 255 '
        '(default: labels overlay)',
    )
    parser.add_argument(
        '--config', help='config to use instead of the one in the checkpoint'
    )
    parser.add_argument(
        '--device', help='such as cuda:1 or cpu (default: a GPU, else cpu)'
    )
    parser.add_argument(
        '--amp',
        action='store_true',
        help='run the network in bfloat16',
    )
    parser.add_argument(
        '--scales',
        type=float,
        nargs='+',
        default=[1.0],
        help='average over the image at these relative sizes (default: 1)',
    )
    parser.add_argument(
        '--flip', action='store_true', help='and over its mirror image'
    )
    parser.add_argument(
        '--batch-size',
        type=int,
        default=1,
        help='images of one size that are predicted at once '
        '(default: %(default)s)',
    )
    return parser.parse_args(argv)


def main(argv: list[str] | None = None, prog: str | None = None) -> None:
    args = parse_args(argv, prog)
    import torch

    from clouds_mmseg.predict.predict_files import (
        find_images,
        predict_files,
        summary_lines,
    )
    from clouds_mmseg.predict.segmenter import Segmenter

    # Mistakes in the inputs are told before the model is loaded.
    find_images(args.inputs)

    segmenter = Segmenter.from_pretrained(
        args.checkpoint,
        config=args.config,
        device=args.device,
        dtype=torch.bfloat16 if args.amp else None,
        scales=args.scales,
        flip=args.flip,
    )
    summary = predict_files(
        segmenter,
        args.inputs,
        args.out,
        kinds=args.save,
        batch_size=args.batch_size,
    )
    print('\n'.join(summary_lines(summary, args.out)))
