"""Read damaged files with every reader, and count what comes of it.

Makes valid files, changes each of them in many ways (the seed and the number
of a change say which) and reads them in a process with a limit of memory and
of time. A reader may answer with what stood in the file before, or with one
UserError. What it must not do is raise something else, crash, hang, take
memory without bound, or return other values of a file that has checksums.
"""

import argparse
from pathlib import Path


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument('--out', type=Path, help='JSON file of the counts')
    parser.add_argument(
        '--count', type=int, default=1000, help='changed files of a reader'
    )
    parser.add_argument('--seed', default='0')
    parser.add_argument(
        '--readers', nargs='+', default=(), help='by default all'
    )
    parser.add_argument(
        '--keep', type=Path, help='folder of the files that a reader fails on'
    )
    args = parser.parse_args()

    from faults.mutations import measure_readers

    measure_readers(args.readers, args.count, args.seed, args.out, args.keep)


if __name__ == '__main__':
    from clouds_mmseg_cli.errors import plain_errors

    with plain_errors():
        main()
