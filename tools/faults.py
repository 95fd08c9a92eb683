"""Campaign of faults: kills, failing disks, clocks, lost workers."""

import argparse
import sys
from pathlib import Path

from clouds_mmseg_cli.errors import plain_errors

TESTS = Path(__file__).resolve().parents[1] / 'tests'
PARTS = ('kills', 'disk', 'small-disk', 'workers', 'two-runs', 'store')


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description='Kill commands, let their disk, clock and workers fail, '
        'run them again, and compare what they write with an undisturbed '
        'run. The exit status is 1 if something was lost or told badly.'
    )
    parser.add_argument(
        '--work-dir',
        default='work_dirs/faults',
        help='folder of inputs and outputs (default: %(default)s)',
    )
    parser.add_argument(
        '--parts',
        nargs='+',
        choices=PARTS,
        default=PARTS,
        help='default: all',
    )
    parser.add_argument(
        '--commands', nargs='+', metavar='NAME', help='default: all'
    )
    parser.add_argument(
        '--kills',
        type=int,
        default=100,
        help='in all, the commands in turn (default: %(default)s)',
    )
    parser.add_argument(
        '--in-a-row',
        type=int,
        default=1,
        metavar='N',
        help='kill each run and its next N - 1 continuations (default: '
        '%(default)s)',
    )
    parser.add_argument(
        '--points',
        type=int,
        default=2,
        help='calls at which each fault of the disk begins, sizes of the '
        'small disk, and kills of workers, for each command '
        '(default: %(default)s)',
    )
    parser.add_argument(
        '--faults',
        nargs='+',
        metavar='TEXT',
        help='only the faults of the disk whose names contain a TEXT',
    )
    parser.add_argument(
        '--short',
        action='store_true',
        help='6 kills, and each fault once, on one of the commands: a minute',
    )
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument(
        '--docs',
        metavar='FOLDER',
        help='add the results to FOLDER/reliability.json and make the tables '
        'of FOLDER/reliability.md anew',
    )
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    work = Path(args.work_dir).absolute()
    from faults.inject import preload

    missing = preload(work)
    # Its runs are those of the tests.
    sys.path[1:1] = [str(TESTS / part) for part in ('', 'engine', 'predict')]
    from faults.run import run_campaign

    passed = run_campaign(
        work,
        parts=args.parts,
        commands=args.commands,
        kills=args.kills,
        in_a_row=args.in_a_row,
        points=args.points,
        faults=args.faults,
        short=args.short,
        seed=args.seed,
        docs=args.docs and Path(args.docs),
        missing=missing,
    )
    raise SystemExit(0 if passed else 1)


if __name__ == '__main__':
    with plain_errors():
        main()
