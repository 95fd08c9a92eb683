"""Generate an image set (image bank), or the missing part of it.

Started by torchrun, srun or mpirun, the processes share the work.
"""

import argparse

from clouds_mmseg_cli.names import IMAGE_BACKENDS as BACKENDS
from clouds_mmseg_cli.options import add_pretrained_dir

# Options of one backend only. They have no default here: the backend sets
# its own, and an option that it does not have is an error.
_OPTIONS = (
    'model', 'size', 'scheduler', 'steps', 'guidance', 'negative_prompt',
    'strength', 'dtype', 'device', 'batch_size', 'threads', 'variant',
    'revision', 'safety_checker', 'single_file_config', 'styles', 'reference',
)  # fmt: skip


def parse_size(text: str) -> int | tuple[int, int]:
    try:
        sides = tuple(int(side) for side in text.lower().split('x'))
    except ValueError:
        sides = ()
    if len(sides) not in (1, 2) or min(sides) < 1:
        raise argparse.ArgumentTypeError(
            f'{text!r} must be WIDTHxHEIGHT, such as 1024x512, or one number'
        )
    return sides if len(sides) == 2 else sides[0]


def parse_args(
    argv: list[str] | None = None, prog: str | None = None
) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog=prog, description=__doc__)
    parser.add_argument('--prompts', help='one a line; photometric needs none')
    parser.add_argument(
        '--num', '--num-images', '-n', type=int, required=True,
        help='images; below torchrun write --num-images, because torchrun '
        'takes --num for an option of its own',
    )  # fmt: skip
    parser.add_argument(
        '--out', required=True, help='folder of the image bank'
    )
    parser.add_argument('--backend', choices=BACKENDS, default='toycity')
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument(
        '--size', type=parse_size,
        help='pixels: WxH or one number; default 768, toycity 256x128. '
        'With img2img one number is the short edge at which the model works',
    )  # fmt: skip
    parser.add_argument(
        '--mode', choices=['txt2img', 'img2img'], default='txt2img',
        help='img2img restyles the images of --source, whose labels stay '
        'right (default: %(default)s)',
    )  # fmt: skip
    parser.add_argument('--source', help='folder of labelled images')
    parser.add_argument(
        '--keep-labels', action='store_true',
        help='toycity: keep the labels of the scenes in '
        'labels_for_evaluation; nothing trains on them',
    )  # fmt: skip
    parser.add_argument(
        '--verify', action='store_true',
        help='compare the hash of every existing image',
    )  # fmt: skip
    parser.add_argument(
        '--shard', metavar='K/N',
        help='make share K (from 0) of N; by default what torchrun, srun or '
        'mpirun say',
    )  # fmt: skip
    group = parser.add_argument_group('options of --backend photometric')
    group.add_argument(
        '--styles', nargs='+',
        help='that the images get in turn, such as dusk "rainy night"; '
        'default: all, a wrong name lists them',
    )  # fmt: skip
    group.add_argument(
        '--reference',
        help='folder of images whose colours the styles fourier and colours '
        'take; not those of a target that is to stay unseen',
    )
    group = parser.add_argument_group('options of --backend diffusers')
    group.add_argument('--model', help='folder, file or id of a pipeline')
    add_pretrained_dir(group)
    group.add_argument(
        '--scheduler',
        help='class name of diffusers, model (its own), or auto (Euler '
        'where it fits, the default)',
    )
    group.add_argument('--steps', type=int, help='default 50')
    group.add_argument('--guidance', type=float, help='default 7.5')
    group.add_argument('--negative-prompt')
    group.add_argument(
        '--strength', type=float, help='of img2img, in (0, 1]; default 0.6'
    )
    group.add_argument('--dtype', help='auto, float32, float16, bfloat16')
    group.add_argument('--device', help='auto, cpu, cuda:N')
    group.add_argument(
        '--batch-size', type=int,
        help='images at once, default 1; rounding depends on it, so a bank '
        'keeps the one it was begun with',
    )  # fmt: skip
    group.add_argument('--threads', type=int, help='on CPU; default 1')
    group.add_argument(
        '--variant',
        help='of the weight files, such as fp16; by default those without '
        'variant, or the only variant',
    )
    group.add_argument(
        '--safety-checker', choices=['default', 'on', 'off'],
        help='of Stable Diffusion: default as the model comes. An image that '
        'it blacks out is generated again with the next seed, up to 6 times',
    )  # fmt: skip
    group.add_argument(
        '--single-file-config',
        help='where --model is a checkpoint in one file: folder of a pipeline '
        'of that kind, for its configs and tokenizer',
    )
    group.add_argument('--revision', help='commit or branch on the hub')
    return parser.parse_args(argv)


def main(argv: list[str] | None = None, prog: str | None = None) -> None:
    args = parse_args(argv, prog)
    from clouds_mmseg.generate.image_bank import parse_shard
    from clouds_mmseg.generate.run import generate_images
    from clouds_mmseg.weights.locate import use_pretrained_dir

    use_pretrained_dir(args.pretrained_dir)
    given = {name: getattr(args, name) for name in _OPTIONS}
    given = {name: v for name, v in given.items() if v is not None}
    try:
        summary = generate_images(
            args.out,
            prompts=args.prompts,
            num=args.num,
            backend=args.backend,
            seed=args.seed,
            mode=args.mode,
            source=args.source,
            keep_labels=args.keep_labels,
            shard=parse_shard(args.shard) if args.shard else None,
            verify=args.verify,
            **given,
        )
    except KeyboardInterrupt:
        raise KeyboardInterrupt(
            f'stopped. Every image in the manifest of {args.out} is whole; '
            'the same command continues.'
        ) from None
    rate = summary.images_per_second
    blank = ', '.join(f'{n} {why}' for why, n in summary.blank.items())
    print(
        f'{args.out}: {summary.created} images made, '
        f'{summary.existing} were there'
        + (f', {rate:.2f} images/s' if rate else '')
        + (f'; made again because blank: {blank}' if blank else '')
        + ('' if summary.complete else '; other processes have the rest')
    )
