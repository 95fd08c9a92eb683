"""Corrupt the images of a folder: the fifteen common corruptions, in PNG.

For Cityscapes-C: %(prog)s data/cityscapes/leftImg8bit/val data/cityscapes_c
"""

import argparse

from clouds_mmseg_cli.options import add_sharing_arguments


def parse_args(
    argv: list[str] | None = None, prog: str | None = None
) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog=prog,
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        'source', help='folder of images, in any depth, or its address'
    )
    parser.add_argument(
        'out', help='folder of the corrupted images, or its address'
    )
    parser.add_argument(
        '--corruptions',
        nargs='+',
        help='names, or categories: noise blur weather digital; default all',
    )
    parser.add_argument(
        '--severities', nargs='+', type=int, help='1 to 5; default all'
    )
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument(
        '--workers',
        type=int,
        help='processes; default: one a core, with --shared one',
    )
    parser.add_argument(
        '--verify',
        action='store_true',
        help='compare the hash of every existing image',
    )
    parser.add_argument(
        '--image-range',
        nargs=2,
        type=float,
        metavar=('BLACK', 'WHITE'),
        help='the values in the files that become 0 and 255, such as 0 4095 '
        'for 12 bits in 16-bit files; as image_range of the dataset',
    )
    add_sharing_arguments(parser)
    return parser.parse_args(argv)


def main(argv: list[str] | None = None, prog: str | None = None) -> None:
    args = parse_args(argv, prog)
    from clouds_mmseg.robustness.run import make_corruptions

    try:
        done = make_corruptions(**vars(args))
    except KeyboardInterrupt:
        raise KeyboardInterrupt(
            f'stopped. Every image in {args.out} is whole; the same command '
            'continues.'
        ) from None
    print(
        f'{args.out}: {done.sources} images in {done.domains} domains; '
        f'{done.created} made, {done.existing} were there'
    )
    if done.share is not None:
        print(done.share)
    print(f'Overview: {done.sheet}')
