"""Compare this package with recorded outputs of other implementations."""

import argparse
import runpy
import sys
from pathlib import Path

from clouds_mmseg_cli.errors import plain_errors

_PARITY = Path(__file__).resolve().parents[1] / 'tests/parity'


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog='Prints a row a file: its kind, the output with the greatest '
        'error measured by its tolerance, that error and the tolerance. '
        'The exit status is 1 if any file misses.',
    )
    parser.add_argument('files', nargs='+', metavar='FILE')
    files = parser.parse_args().files
    # A part of the tests, which lie in the checkout beside the tools. As a
    # folder is run, its modules find one another.
    check_file = runpy.run_path(str(_PARITY))['check_file']

    width = max(len(name) for name in files)
    failed = False
    for name in files:
        report = check_file(name)
        failed |= not report.passed
        verdict = 'ok  ' if report.passed else 'MISS'
        print(f'{verdict} {name:{width}}  {report.kind:13}  {report.detail}')
    sys.exit(failed)


if __name__ == '__main__':
    with plain_errors():
        main()
