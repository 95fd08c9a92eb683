"""Export predictions for FiftyOne, CVAT, Label Studio; import corrections."""

import argparse

from clouds_mmseg_cli.names import REVIEW_RANKS, REVIEW_TOOLS


def parse_args(
    argv: list[str] | None = None, prog: str | None = None
) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog=prog, description=__doc__)
    commands = parser.add_subparsers(dest='command', required=True)
    export = commands.add_parser(
        'export',
        help='predict images and write the worst of them',
        description='Predict images and write those with the worst '
        'predictions, for a tool in which they can be looked at or corrected.',
    )
    export.add_argument(
        'checkpoint', help='checkpoint of a training, or a published file'
    )
    export.add_argument(
        'inputs',
        nargs='+',
        metavar='input',
        help='images, folders (with their sub-folders), or patterns such as '
        '"street/*.jpg"',
    )
    export.add_argument(
        '--to', required=True, choices=REVIEW_TOOLS, help='the tool'
    )
    export.add_argument('--out', required=True, help='new folder to write')
    export.add_argument(
        '--worst',
        type=int,
        metavar='N',
        help='write the N worst images (default: all)',
    )
    export.add_argument(
        '--by',
        choices=REVIEW_RANKS,
        default=REVIEW_RANKS[0],
        help='what the worst are lowest in: the IoU that the scores let '
        'expect, mean over the classes of an image; the confidence, mean '
        'over its pixels; the agreement with the prediction of the mirrored '
        'image (default: %(default)s)',
    )
    export.add_argument(
        '--teacher',
        action='store_true',
        help='predict with the teacher of self-training: its pseudo labels, '
        'before refinement',
    )
    export.add_argument(
        '--labels',
        metavar='DIR',
        help='labels of the images, class indices under the same paths '
        '(.png): for --to fiftyone, which then shows the errors',
    )
    export.add_argument(
        '--config', help='config to use instead of the one in the checkpoint'
    )
    export.add_argument(
        '--device', help='such as cuda:1 or cpu (default: a GPU, else cpu)'
    )
    read = commands.add_parser(
        'import',
        help='write what was corrected as a labelled set',
        description='Write corrected labels as a folder that FolderDataset '
        'trains on, with a piece of a config (dataset.py).',
    )
    read.add_argument('folder', help='folder that `export` wrote')
    read.add_argument(
        'file',
        help='what the tool exported: the zip "Segmentation mask 1.1" of '
        'CVAT, or the JSON of Label Studio',
    )
    read.add_argument('--out', required=True, help='new folder to write')
    args = parser.parse_args(argv)
    if args.command == 'export' and args.labels and args.to != 'fiftyone':
        parser.error('--labels is for --to fiftyone')
    return args


def main(argv: list[str] | None = None, prog: str | None = None) -> None:
    args = parse_args(argv, prog)
    if args.command == 'export':
        _export(args)
    else:
        _import(args)


def _export(args):
    from clouds_mmseg.bridges.cvat import write_cvat
    from clouds_mmseg.bridges.fiftyone import write_fiftyone
    from clouds_mmseg.bridges.label_studio import write_label_studio
    from clouds_mmseg.bridges.review import export_review
    from clouds_mmseg.predict.inputs import find_images
    from clouds_mmseg.predict.segmenter import Segmenter

    # Mistakes in the inputs are told before the model is loaded.
    images = find_images(args.inputs)
    segmenter = Segmenter.from_pretrained(
        args.checkpoint,
        config=args.config,
        device=args.device,
        teacher=args.teacher,
    )
    writers = dict(
        fiftyone=write_fiftyone,
        cvat=write_cvat,
        labelstudio=write_label_studio,
    )
    review, failed = export_review(
        segmenter,
        images,
        args.out,
        writers[args.to],
        tool=args.to,
        checkpoint=args.checkpoint,
        teacher=args.teacher,
        worst=args.worst,
        rank=args.by,
        labels=args.labels,
    )
    print(f'{len(review.images)} images: {args.out}')
    for image in review.images[:5]:
        print(f'  {getattr(image, args.by):.3f}  {image.name}')
    if len(review.images) > 5:
        print(f'  ({args.by}; the others are in review.json)')
    for path, why in failed.items():
        print(f'  not read: {path}: {why}')


def _import(args):
    from clouds_mmseg.bridges.cvat import read_cvat
    from clouds_mmseg.bridges.label_studio import read_label_studio
    from clouds_mmseg.bridges.review import import_review, read_review
    from clouds_mmseg.utils.errors import UserError

    review = read_review(args.folder)
    readers = dict(cvat=read_cvat, labelstudio=read_label_studio)
    if review.tool not in readers:
        raise UserError(
            f'{args.folder} was exported for {review.tool}, in which labels '
            'are looked at, not corrected; export it for '
            f'{" or ".join(readers)}'
        )
    labels = readers[review.tool](args.file, review)
    left = import_review(args.folder, args.out, labels)
    done = len(review.images) - len(left)
    print(f'{done} labelled images: {args.out}')
    for name in left[:5]:
        print(f'  not in {args.file}: {name}')
    if len(left) > 5:
        print(f'  and {len(left) - 5} more')
    print(f'  train on them: see {args.out}/dataset.py')
