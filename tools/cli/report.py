"""Report trainings and evaluations as one HTML file."""

import argparse


def parse_args(
    argv: list[str] | None = None, prog: str | None = None
) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog=prog,
        description=__doc__,
        epilog='The file needs no network and no other file. Runs of one '
        'config with several seeds are grouped, and the groups compared with '
        'that of the first folder.',
    )
    parser.add_argument(
        'folders',
        nargs='+',
        metavar='work_dir',
        help='work dir of a training or a test, finished or not',
    )
    parser.add_argument(
        '--out',
        default='report.html',
        help='the HTML file (default: %(default)s)',
    )
    parser.add_argument('--title', help='title (default: names of the runs)')
    parser.add_argument(
        '--pictures',
        type=int,
        default=2,
        metavar='N',
        help='images shown of each domain, and as many of the worst; 0: none '
        '(default: %(default)s)',
    )
    return parser.parse_args(argv)


def main(argv: list[str] | None = None, prog: str | None = None) -> None:
    args = parse_args(argv, prog)
    from clouds_mmseg.report.page import summary_lines, write_report

    written = write_report(
        args.folders,
        args.out,
        title=args.title,
        pictures_per_domain=args.pictures,
    )
    print('\n'.join(summary_lines(written)))
