"""Pack a generated image set into tar shards (WebDataset), and unpack it.

GeneratedDataset and DiffusionAugment read a packed set as they read a folder.
"""

import argparse


def parse_args(
    argv: list[str] | None = None, prog: str | None = None
) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog=prog,
        description=__doc__,
        epilog='The same command again continues one that was stopped.',
    )
    parser.add_argument(
        'bank', help='folder of the image set, or its address (s3://...)'
    )
    parser.add_argument(
        '--out',
        required=True,
        metavar='DIR',
        help='new folder; of a packed set, also an address',
    )
    parser.add_argument(
        '--shard-size',
        type=float,
        default=500,
        metavar='MB',
        help='largest size of a shard, in 10**6 bytes (default: %(default)s)',
    )
    parser.add_argument(
        '--unpack',
        action='store_true',
        help='write the plain files of a packed set',
    )
    return parser.parse_args(argv)


def main(argv: list[str] | None = None, prog: str | None = None) -> None:
    args = parse_args(argv, prog)
    from clouds_mmseg.generate.pack import pack_images, unpack_images
    from clouds_mmseg.utils.data_root import resolve_data_root

    bank, out = resolve_data_root(args.bank), resolve_data_root(args.out)
    try:
        if args.unpack:
            done = unpack_images(bank, out)
        else:
            done = pack_images(bank, out, shard_mb=args.shard_size)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(
            f'stopped. Every file in {out} is whole; the same command '
            'continues.'
        ) from None
    what = 'images' if args.unpack else 'shards'
    print(
        f'{out}: {done.images} images in {done.shards} '
        f'shard{"" if done.shards == 1 else "s"} of {done.size / 1e6:.1f} MB '
        f'in all; {done.existing} {what} were there already'
    )
