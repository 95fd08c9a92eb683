"""Ablation of the method's components on ToyCity."""

import argparse

from clouds_mmseg_cli.errors import plain_errors
from clouds_mmseg_cli.names import ABLATION_ROWS, ABLATION_SCHEDULES


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description='Train the rows of the ablation and compare them. The '
        'same command again continues and trains only what is missing.'
    )
    parser.add_argument(
        '--work-dir',
        default='work_dirs/ablation',
        help='folder of the runs and tables (default: %(default)s)',
    )
    parser.add_argument(
        '--seeds',
        type=int,
        nargs='+',
        help='default: 0 to 4 for the rows of the claims, 0 to 2 for the '
        'other rows and for the long schedule, which has the first alone',
    )
    parser.add_argument(
        '--rows',
        nargs='+',
        choices=ABLATION_ROWS,
        default=list(ABLATION_ROWS),
        help='default: all',
    )
    parser.add_argument(
        '--schedules',
        nargs='+',
        choices=ABLATION_SCHEDULES,
        default=list(ABLATION_SCHEDULES),
        help='short: 200 iterations of both stages, long: 400 of both; '
        'default: both',
    )
    parser.add_argument(
        '--jobs',
        type=int,
        default=2,
        help='parallel trainings; the cores are divided among them '
        '(default: %(default)s)',
    )
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        default=[],
        metavar='KEY=VALUE',
        help='override settings of every row',
    )
    parser.add_argument(
        '--docs',
        metavar='FOLDER',
        help='add the results to FOLDER/ablation.json and make the tables of '
        'FOLDER/ablation.md and its plots anew',
    )
    parser.add_argument(
        '--dry-run',
        action='store_true',
        help='print the commands and run none',
    )
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    from ablation.run import run_ablation

    run_ablation(**vars(args))


if __name__ == '__main__':
    with plain_errors():
        main()
