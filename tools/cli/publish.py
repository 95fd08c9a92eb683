"""Publish a checkpoint: one file, or a folder for the Hugging Face hub."""

import argparse
from pathlib import Path


def parse_args(
    argv: list[str] | None = None, prog: str | None = None
) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog=prog,
        description=__doc__,
        epilog='The state of optimizer, schedule and log is left out; the '
        'config, the classes and the hash of the source stay inside.',
    )
    parser.add_argument('source', help='checkpoint')
    parser.add_argument(
        'target',
        help='.pth or .safetensors; or a folder (a name without suffix, or '
        'one that ends with /), with model.safetensors, config.json, '
        'config.py and README.md, the model card',
    )
    parser.add_argument(
        '--config', help='config to keep inside, if not that of the training'
    )
    parser.add_argument(
        '--without-teacher',
        action='store_true',
        help="leave out self-training's teacher, which a test does not need",
    )
    parser.add_argument(
        '--without-backbone',
        action='store_true',
        help='leave out a frozen backbone that equals its pretrained file; '
        'loading takes it from there, and compares it by a hash',
    )
    parser.add_argument(
        '--trust',
        action='store_true',
        help='let the pickle run code; only for files that you made yourself',
    )
    folder = parser.add_argument_group('for a folder')
    folder.add_argument(
        '--name', help='of the model (default: that of repository or folder)'
    )
    folder.add_argument(
        '--results',
        nargs='+',
        default=[],
        metavar='FILE',
        help='results.json files with the numbers of the card (default: that '
        'of the run, if it is of this checkpoint)',
    )
    folder.add_argument(
        '--picture',
        metavar='IMAGE',
        help='predict this image for the card; "run": the picture that the '
        'run drew of its test images (mind their licences)',
    )
    folder.add_argument(
        '--license',
        metavar='ID',
        help='licence of the weights, such as apache-2.0 (default: unknown)',
    )
    folder.add_argument(
        '--overwrite',
        action='store_true',
        help='replace an earlier publication, in the folder and on the hub',
    )
    folder.add_argument(
        '--push-to-hub',
        metavar='USER/NAME',
        help='upload the folder; the token is taken from HF_TOKEN',
    )
    folder.add_argument(
        '--public',
        action='store_true',
        help='the new repository is for everybody (default: private)',
    )
    args = parser.parse_args(argv)
    if is_folder(args.target):
        if args.public and not args.push_to_hub:
            parser.error('--public belongs to --push-to-hub')
        return args
    for option in (
        *('name', 'results', 'picture', 'license', 'overwrite'),
        *('push_to_hub', 'public'),
    ):
        if getattr(args, option):
            parser.error(
                f'--{option.replace("_", "-")} is for a folder, and '
                f'{args.target} is a file; give a name without suffix, or '
                'end it with /'
            )
    return args


def is_folder(target: str) -> bool:
    """Tell whether a target is meant as a folder."""
    path = Path(target).expanduser()
    return target.endswith('/') or not path.suffix or path.is_dir()


def main(argv: list[str] | None = None, prog: str | None = None) -> None:
    args = parse_args(argv, prog)
    from clouds_mmseg.conversion.publish import publish, published_lines
    from clouds_mmseg.utils.errors import UserError
    from clouds_mmseg.utils.remote import is_address, written_locally
    from clouds_mmseg.weights.load import find_checkpoint

    common = dict(
        config=args.config,
        teacher=not args.without_teacher,
        backbone=not args.without_backbone,
        trust=args.trust,
    )
    if is_address(args.source):
        args.source = str(find_checkpoint(args.source))
    if not is_folder(args.target):
        with written_locally(args.target) as target:
            done = publish(args.source, target, **common)
        print('\n'.join(published_lines(done, args.target)))
        return
    if is_address(args.target):
        raise UserError(
            f'{args.target}: only one file is written to a store; give a '
            'name that ends in .safetensors or .pth'
        )
    from clouds_mmseg.conversion.hub_folder import publish_folder

    upload = None
    if args.push_to_hub:
        from clouds_mmseg.conversion.hub_upload import check_upload

        upload = check_upload(
            args.push_to_hub, public=args.public, overwrite=args.overwrite
        )
    done, remarks = publish_folder(
        args.source,
        args.target,
        name=args.name or args.push_to_hub,
        results=args.results,
        picture=picture_maker(args.source, args.picture),
        license=args.license,
        overwrite=args.overwrite,
        **common,
    )
    print('\n'.join(published_lines(done)))
    for remark in remarks:
        print(f'  note         {remark}')
    if upload is not None:
        from clouds_mmseg.conversion.hub_upload import upload_folder

        kind = 'private' if upload.private else 'public'
        address = upload_folder(upload, done.target.parent)
        print(f'  uploaded     {address} ({kind})')


def picture_maker(source: str, picture: str | None):
    """Return what draws the picture of a card from the new weight file.

    The file is loaded in any case: what does not load is not published.
    """
    if picture not in (None, 'run'):
        from clouds_mmseg.utils.images import read_image

        # Told before the weights are read.
        read_image(picture)

    def draw(weights):
        from clouds_mmseg.predict.segmenter import Segmenter

        segmenter = Segmenter.from_pretrained(weights)
        if picture is None:
            return None
        if picture == 'run':
            from PIL import Image

            from clouds_mmseg.conversion.hub_folder import run_picture
            from clouds_mmseg.weights.io import read_metadata

            path, caption = run_picture(
                source, read_metadata(weights).get('iter')
            )
            return Image.open(path), caption
        overlay = segmenter(picture).overlay()
        return overlay, f'Prediction over the image {Path(picture).name}'

    return draw
