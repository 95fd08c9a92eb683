"""Prepare data/NAME from the official downloads, see docs/datasets.md."""

import argparse

from clouds_mmseg_cli.names import PREPARED_SETS as NAMES
from clouds_mmseg_cli.names import RECODES


def parse_args(
    argv: list[str] | None = None, prog: str | None = None
) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog=prog, description=__doc__)
    parser.add_argument(
        'name', choices=NAMES, metavar='NAME', help=', '.join(NAMES)
    )
    parser.add_argument(
        '--src',
        nargs='+',
        required=True,
        help='archives as downloaded, or folders of archives or files',
    )
    parser.add_argument('--out', help='default: data/NAME')
    how = parser.add_mutually_exclusive_group()
    how.add_argument(
        '--link',
        action='store_true',
        default=True,
        help='link files of folders (default); archives are unpacked',
    )
    how.add_argument(
        '--copy',
        dest='link',
        action='store_false',
        help='copy files of folders',
    )
    parser.add_argument(
        '--resize-short',
        type=int,
        metavar='N',
        help='make a smaller copy: short edge of N pixels, labels too',
    )
    parser.add_argument(
        '--recode',
        choices=RECODES,
        help='write the images in a format that is faster to read: bmp and '
        'webp have the same pixels, jpg (quality 95) is small and has not',
    )
    parser.add_argument(
        '--label-version',
        choices=['1.2', '2.0'],
        help='of Mapillary Vistas (default: 1.2 if available)',
    )
    parser.add_argument(
        '--skip-bad',
        action='store_true',
        help='leave out images that are damaged or lack their label',
    )
    parser.add_argument(
        '--workers', type=int, help='processes (default: number of cores)'
    )
    return parser.parse_args(argv)


def main(argv: list[str] | None = None, prog: str | None = None) -> None:
    args = parse_args(argv, prog)
    from clouds_mmseg.data_tools.prepare.run import Options, prepare_dataset
    from clouds_mmseg.utils.data_root import resolve_data_root

    out = args.out or resolve_data_root(f'data/{args.name}')
    options = Options(
        link=args.link,
        resize_short=args.resize_short,
        recode=args.recode,
        label_version=args.label_version,
        skip_bad=args.skip_bad,
        workers=args.workers,
    )
    result = prepare_dataset(args.name, args.src, out, options)
    counts = ', '.join(
        f'{split} {count}' for split, count in result.manifest.splits.items()
    )
    print(
        f'{out}: {counts} images; {result.created} files made, '
        f'{result.existing} there before; '
        f'labels from {result.manifest.label_source}'
    )
