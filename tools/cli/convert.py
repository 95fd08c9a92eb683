"""Convert checkpoints of other projects to ours, and back."""

import argparse

from clouds_mmseg_cli.names import CHECKPOINT_KINDS as KINDS
from clouds_mmseg_cli.names import WRITTEN_KINDS


def parse_args(
    argv: list[str] | None = None, prog: str | None = None
) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog=prog,
        description=__doc__,
        epilog='Prints how every tensor was converted. Nothing is written '
        'unless every weight of the model is found in the right shape.',
    )
    parser.add_argument('source', help='.pth, .pkl or .safetensors')
    parser.add_argument('target', help='.pth or .safetensors')
    parser.add_argument(
        '--from',
        dest='kind',
        choices=['auto', *KINDS],
        default='auto',
        help='project of the checkpoint; by default detected from its keys',
    )
    parser.add_argument(
        '--to',
        dest='destination',
        choices=['ours', *WRITTEN_KINDS],
        default='ours',
        help='project whose format is written',
    )
    parser.add_argument(
        '--config',
        help='config whose model the weights are for; by default the model '
        'is deduced from the weights',
    )
    parser.add_argument(
        '--fill-from',
        metavar='FILE',
        help='with --to clouds or fcclip: an official checkpoint or a CLIP '
        "model from which to take CLIP's other parts",
    )
    parser.add_argument(
        '--tower',
        metavar='FILE',
        help="pretrained weights of the tower: for Rein's files and SoMA's "
        "adapter files, which have none, and for EoMT's on DINOv3, which "
        'hold differences to it',
    )
    parser.add_argument(
        '--list', action='store_true', help='print every single tensor'
    )
    parser.add_argument(
        '--trust',
        action='store_true',
        help='let the pickle run code; only for files that you made yourself',
    )
    return parser.parse_args(argv)


def main(argv: list[str] | None = None, prog: str | None = None) -> None:
    args = parse_args(argv, prog)
    from clouds_mmseg.conversion.convert_file import convert_file, report_lines

    outcome = convert_file(
        args.source,
        args.target,
        kind=args.kind,
        destination=args.destination,
        config=args.config,
        fill_from=args.fill_from,
        tower=args.tower,
        trust=args.trust,
    )
    print('\n'.join(report_lines(outcome, every=args.list)))
