"""Publish a checkpoint: keep weights, config, classes and source hash."""

import argparse


def parse_args(
    argv: list[str] | None = None, prog: str | None = None
) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog=prog,
        description=__doc__,
        epilog='The state of optimizer, schedule and log is left out; the '
        'config, the classes and the hash of the source stay inside.',
    )
    parser.add_argument('source', help='checkpoint')
    parser.add_argument('target', help='.pth or .safetensors')
    parser.add_argument(
        '--config', help='config to keep inside, if not that of the training'
    )
    parser.add_argument(
        '--without-teacher',
        action='store_true',
        help="leave out self-training's teacher, which a test does not need",
    )
    parser.add_argument(
        '--trust',
        action='store_true',
        help='let the pickle run code; only for files that you made yourself',
    )
    return parser.parse_args(argv)


def main(argv: list[str] | None = None, prog: str | None = None) -> None:
    args = parse_args(argv, prog)
    from clouds_mmseg.conversion.publish import publish, published_lines

    done = publish(
        args.source,
        args.target,
        config=args.config,
        teacher=not args.without_teacher,
        trust=args.trust,
    )
    print('\n'.join(published_lines(done)))
