"""Measure inference, training steps, refinement, loading and resuming."""

from pathlib import Path

from clouds_mmseg_cli.benchmark import parse_args
from clouds_mmseg_cli.errors import plain_errors

REFERENCE_FOLDER = Path(__file__).resolve().parents[1] / 'tests' / 'reference'


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    from benchmark.command import run

    run(args, REFERENCE_FOLDER)


if __name__ == '__main__':
    with plain_errors():
        main()
