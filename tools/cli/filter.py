"""Filter a generated image set: which images and pixels are used.

Nothing is deleted: the manifest says what is used, and why not.
"""

import argparse

from clouds_mmseg_cli.options import add_sharing_arguments

_DEFAULT = ' (default: %(default)s)'


def parse_args(
    argv: list[str] | None = None, prog: str | None = None
) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog=prog,
        description=__doc__,
        epilog='The same command again continues. With other limits it '
        'decides anew, without running the model again.',
    )
    parser.add_argument('bank', help='folder of the image bank')
    parser.add_argument(
        '--checkpoint',
        help='model trained on labelled images: a file, or the work dir of a '
        'training',
    )
    parser.add_argument(
        '--undo', action='store_true',
        help='use all images again and remove what the filter wrote',
    )  # fmt: skip
    parser.add_argument(
        '--teacher', action='store_true',
        help="measure with the teacher of the checkpoint's self-training",
    )  # fmt: skip
    parser.add_argument(
        '--config',
        help='config to use instead of the one in the checkpoint; the labels '
        'of restyled images are looked up in its training data',
    )
    parser.add_argument(
        '--labels', metavar='DIR',
        help='labels of the restyled images in place of those: class indices '
        'under the paths of the sources (.png)',
    )  # fmt: skip
    parser.add_argument(
        '--k', type=float, default=1.25,
        help='labelled pixels whose loss is above K times the mean of their '
        'class become 255' + _DEFAULT,
    )  # fmt: skip
    parser.add_argument(
        '--min-kept', type=float, default=0.5, metavar='SHARE',
        help='leave out images of whose labelled pixels less is left'
        + _DEFAULT,
    )  # fmt: skip
    parser.add_argument(
        '--min-confidence', type=float, default=0.5, metavar='SHARE',
        help='leave out images without label on which the mean confidence of '
        'the model is lower' + _DEFAULT,
    )  # fmt: skip
    parser.add_argument(
        '--duplicates', type=float, default=0.02, metavar='SHARE',
        help='leave out images whose perceptual hash differs in at most this '
        'share of bits from that of an earlier one' + _DEFAULT,
    )  # fmt: skip
    parser.add_argument(
        '--clip', metavar='MODEL',
        help='CLIP that compares images with their prompts, as '
        'CLIPBackbone(model_name=...); by default that of the text '
        'classifier or ViT-B-32, if the weights are on this machine',
    )  # fmt: skip
    parser.add_argument(
        '--clip-weights', metavar='WEIGHTS',
        help='its weights, as CLIPBackbone(pretrained=...)',
    )  # fmt: skip
    parser.add_argument(
        '--min-similarity', type=float, metavar='COSINE',
        help='leave out images with a lower similarity to their prompt '
        '(default: those far below the others)',
    )  # fmt: skip
    parser.add_argument(
        '--device', help='such as cuda:1 or cpu (default: a GPU, else cpu)'
    )
    parser.add_argument(
        '--shard', metavar='K/N',
        help='measure share K (from 0) of N; by default what torchrun, srun '
        'or mpirun say. The last one to finish decides',
    )  # fmt: skip
    parser.add_argument(
        '--workers', type=int, default=1,
        help='processes that write filtered labels' + _DEFAULT,
    )  # fmt: skip
    parser.add_argument(
        '--sheet', type=int, default=48, metavar='N',
        help='images on the contact sheet, half of them those of the lowest '
        'scores; 0: no sheet' + _DEFAULT,
    )  # fmt: skip
    add_sharing_arguments(parser)
    args = parser.parse_args(argv)
    if args.shared and args.shard:
        parser.error('--shared takes the place of --shard')
    if not args.undo and args.checkpoint is None:
        parser.error('--checkpoint is needed, or --undo')
    if args.clip_weights and not args.clip:
        parser.error('--clip-weights belongs to --clip')
    return args


def main(argv: list[str] | None = None, prog: str | None = None) -> None:
    args = parse_args(argv, prog)
    from clouds_mmseg.cli.filter import run_filter
    from clouds_mmseg.generate.image_bank import parse_shard
    from clouds_mmseg.image_filter import (
        FilterRule,
        refuse_store,
        undo_filter,
    )
    from clouds_mmseg.utils.data_root import resolve_data_root

    bank = resolve_data_root(args.bank)
    # Before a model is loaded.
    refuse_store(bank)
    if args.undo:
        print(f'{bank}: {undo_filter(bank)} images are used again')
        return
    rule = FilterRule(
        k=args.k,
        min_kept=args.min_kept,
        min_confidence=args.min_confidence,
        duplicates=args.duplicates,
        min_similarity=args.min_similarity,
    )
    clip = (args.clip, args.clip_weights) if args.clip else None
    shard = parse_shard(args.shard) if args.shard else None
    try:
        lines = run_filter(args, bank, rule, clip=clip, shard=shard)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(
            f'stopped. What was measured of {bank} is kept; the same command '
            'continues.'
        ) from None
    print('\n'.join(lines))
