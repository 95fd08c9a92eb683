"""Measure inference, training steps, refinement, loading and resuming."""

from pathlib import Path

from clouds_mmseg.benchmark.arguments import parse_args
from clouds_mmseg.benchmark.command import run
from clouds_mmseg.engine.launch import plain_errors

PLAIN = Path(__file__).resolve().parents[1] / 'tests' / 'plain'


def main(argv=None):
    run(parse_args(argv), PLAIN)


if __name__ == '__main__':
    with plain_errors():
        main()
