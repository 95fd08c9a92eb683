"""Predict images and videos with a trained model."""

import argparse

from clouds_mmseg_cli.names import PREDICTION_KINDS
from clouds_mmseg_cli.options import add_sharing_arguments


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
        'checkpoint',
        help='checkpoint of a training, a published file or folder, the work '
        'dir of a training (its last checkpoint), a URL, a repository of the '
        'Hugging Face hub (owner/name), or a file of clouds export',
    )
    parser.add_argument(
        'inputs',
        nargs='+',
        metavar='input',
        help='images, videos, folders (with their sub-folders), patterns '
        'such as "street/*.jpg", http:// and https:// addresses of images '
        'and videos, or camera:0',
    )
    parser.add_argument(
        '--out',
        required=True,
        help='folder of the results: KIND/PATH.png; of a video KIND/PATH.mp4 '
        'for color and overlay, and a folder with a file a frame for others',
    )
    parser.add_argument(
        '--save',
        nargs='+',
        choices=PREDICTION_KINDS,
        default=['labels', 'overlay'],
        help='labels: class indices in a grey PNG; color: in the colours of '
        'the classes; overlay: these over the image; confidence: 0 to 255; '
        'rle: masks in the JSON format of COCO (default: labels overlay)',
    )
    parser.add_argument(
        '--label-ids',
        metavar='FILE',
        help='ids of the classes in labels and rle: cityscapes for its label '
        'ids, or a JSON or YAML file {class name: id} (default: 0, 1, ...)',
    )
    parser.add_argument(
        '--classes',
        nargs='+',
        metavar='NAME',
        help='other classes for a model with the text classifier; '
        'NAME=WORD,WORD gives the words by which a class is found',
    )
    parser.add_argument(
        '--smooth',
        type=float,
        default=0.0,
        metavar='W',
        help='for videos: share of the frames before in the scores, such as '
        '0.7; begins anew at scene cuts (default: 0)',
    )
    parser.add_argument(
        '--seconds',
        type=float,
        help='after which a camera ends (default: at Ctrl-C)',
    )
    parser.add_argument(
        '--config', help='config to use instead of the one in the checkpoint'
    )
    parser.add_argument(
        '--device',
        help='such as cuda:1 or cpu (default: a GPU, each process of torchrun '
        'its own, else cpu)',
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
    add_sharing_arguments(parser)
    return parser.parse_args(argv)


def main(argv: list[str] | None = None, prog: str | None = None) -> None:
    args = parse_args(argv, prog)
    import torch

    from clouds_mmseg.predict.exported import load_predictor
    from clouds_mmseg.predict.formats import read_label_ids
    from clouds_mmseg.predict.inputs import find_inputs
    from clouds_mmseg.predict.predict_files import (
        make_output_folder,
        predict_files,
        summary_lines,
    )

    # These mistakes are told before the model is loaded.
    inputs = find_inputs(args.inputs, args.out)
    make_output_folder(args.out)
    options = dict(
        config=args.config,
        dtype=torch.bfloat16 if args.amp else None,
        scales=args.scales,
        flip=args.flip,
    )
    segmenter = load_predictor(args.checkpoint, device=args.device, **options)
    if args.classes:
        segmenter = _with_classes(segmenter, args)
    ids = None
    if args.label_ids:
        ids = read_label_ids(args.label_ids, segmenter.classes)
    summary = predict_files(
        segmenter,
        inputs,
        args.out,
        kinds=args.save,
        batch_size=args.batch_size,
        label_ids=ids,
        smooth=args.smooth,
        seconds=args.seconds,
        shared=_identity(args) if args.shared else None,
        lease=args.lease,
    )
    print('\n'.join(summary_lines(summary, args.out)))


def _identity(args):
    """Return what tells the model from others, for processes that share."""
    from clouds_mmseg.utils.hashing import hash_file
    from clouds_mmseg.weights.load import find_checkpoint

    file = find_checkpoint(args.checkpoint)
    # The weights of OpenVINO's files lie beside them.
    files = [file, file.with_suffix('.bin')] if file.suffix == '.xml' else [
        file
    ]  # fmt: skip
    return dict(
        checkpoint=[hash_file(file) for file in files],
        config=args.config and hash_file(args.config),
        classes=args.classes,
        amp=args.amp,
        scales=args.scales,
        flip=args.flip,
    )


def _with_classes(predictor, args):
    from clouds_mmseg.predict.segmenter import Segmenter
    from clouds_mmseg.utils.errors import UserError

    if not isinstance(predictor, Segmenter):
        raise UserError(
            f'{args.checkpoint} is an exported program, whose classes are '
            'fixed: --classes needs the checkpoint that it was made of'
        )
    return predictor.with_classes(_words(args.classes))


def _words(classes):
    """Parse ``NAME`` and ``NAME=WORD,WORD``: a list of lists of synonyms."""
    named = [text.partition('=') for text in classes]
    double = [name for name, _, _ in named]
    if len(set(double)) < len(double):
        from clouds_mmseg.utils.errors import UserError

        raise UserError(f'--classes names a class twice: {" ".join(classes)}')
    return {
        name: [word.strip() for word in words.split(',')] if sign else [name]
        for name, sign, words in named
    }
