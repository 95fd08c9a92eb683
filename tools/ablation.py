"""Measure what each part is worth on ToyCity: python tools/ablation.py."""

import argparse

from clouds_mmseg.ablation.rows import ROWS
from clouds_mmseg.ablation.run import run_ablation
from clouds_mmseg.engine.launch import plain_errors


def parse_args():
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
        default=[0, 1, 2],
        help='default: 0 1 2',
    )
    parser.add_argument(
        '--rows',
        nargs='+',
        choices=[row.name for row in ROWS],
        default=[row.name for row in ROWS],
        help='default: all',
    )
    parser.add_argument(
        '--jobs',
        type=int,
        default=2,
        help='trainings at a time; each gets its share of the cores '
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
        '--dry-run',
        action='store_true',
        help='print the commands and run none',
    )
    return parser.parse_args()


if __name__ == '__main__':
    with plain_errors():
        run_ablation(**vars(parse_args()))
