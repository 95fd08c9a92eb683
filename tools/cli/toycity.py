"""Render ToyCity, the built-in benchmark, into a folder."""

import argparse
import time
from pathlib import Path


def parse_args(
    argv: list[str] | None = None, prog: str | None = None
) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog=prog, description=__doc__)
    parser.add_argument('out', help='folder, e.g. data/toycity')
    parser.add_argument(
        '--size', type=int, nargs=2, default=(256, 128), metavar=('W', 'H')
    )
    parser.add_argument('--num-source', type=int, default=320)
    parser.add_argument('--num-source-val', type=int, default=40)
    parser.add_argument(
        '--num-target', type=int, default=40, help='images a target'
    )
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--workers', type=int, default=2)
    parser.add_argument(
        '--overwrite',
        action='store_true',
        help='delete a dataset made with other arguments',
    )
    parser.add_argument(
        '--contact-sheet',
        action=argparse.BooleanOptionalAction,
        default=True,
        help='write contact_sheet.png',
    )
    return parser.parse_args(argv)


def main(argv: list[str] | None = None, prog: str | None = None) -> None:
    args = parse_args(argv, prog)
    from clouds_mmseg.toycity import write_toycity
    from clouds_mmseg.toycity.dataset import (
        MANIFEST,
        read_manifest,
        write_contact_sheet,
    )

    start = time.perf_counter()
    written = write_toycity(
        args.out,
        num_source=args.num_source,
        num_source_val=args.num_source_val,
        num_target=args.num_target,
        size=args.size,
        seed=args.seed,
        workers=args.workers,
        overwrite=args.overwrite,
    )
    counts = read_manifest(Path(args.out) / MANIFEST)['images']
    total = sum(counts.values())
    if written:
        took = time.perf_counter() - start
        print(f'{args.out}: {total} images and labels in {took:.1f} s')
    else:
        print(f'{args.out}: all {total} images exist already')
    sheet = Path(args.out) / 'contact_sheet.png'
    if args.contact_sheet and (written or not sheet.is_file()):
        write_contact_sheet(args.out, sheet, counts=counts)
        print(f'wrote {sheet}')
