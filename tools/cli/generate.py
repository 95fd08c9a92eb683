"""Generate an image set (image bank), or the missing part of it.

Started by torchrun, srun or mpirun, the processes share the work.
"""

import argparse

from clouds_mmseg_cli.names import CONTROLS, IMAGE_MODES, PREPARED_SETS
from clouds_mmseg_cli.names import IMAGE_BACKENDS as BACKENDS
from clouds_mmseg_cli.options import add_pretrained_dir, add_sharing_arguments

# Options of one backend only. They have no default here: the backend sets
# its own, and an option that it does not have is an error.
_OPTIONS = (
    'model', 'size', 'scheduler', 'steps', 'guidance', 'negative_prompt',
    'strength', 'image_guidance', 'dtype', 'device', 'batch_size', 'threads',
    'variant', 'revision', 'safety_checker', 'single_file_config', 'lora',
    'lora_scale', 'offload', 'controlnet', 'control_scale', 'control',
    'palette', 'unknown_classes', 'ignore_border', 'depth_model',
    'styles', 'reference',
)  # fmt: skip
_DETAILS = """\
modes: txt2img makes images from prompts. img2img adds noise to the images of
--source and removes it, edit changes them as the prompt says; both keep their
labels. label2img makes images from label maps, which become their labels.
A model does the modes that its pipeline in diffusers has; steps, guidance and
scheduler are the pipeline's own unless given.
"""


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
    parser = argparse.ArgumentParser(
        prog=prog,
        description=__doc__,
        epilog=_DETAILS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
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
        help='pixels: WxH or one number; default 768, toycity 256x128. In '
        'the other modes than txt2img one number is the short edge at which '
        'the model works; the result has the size of its source',
    )  # fmt: skip
    parser.add_argument(
        '--mode', choices=IMAGE_MODES, default='txt2img',
        help='see below (default: %(default)s)',
    )  # fmt: skip
    parser.add_argument(
        '--source',
        help='img2img, edit: folder of labelled images; label2img with '
        '--control edges or depth: of the images of --labels',
    )
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
    parser.add_argument(
        '--copy-to', metavar='ADDRESS',
        help='copy the complete set to a store, such as s3://bucket/bank',
    )  # fmt: skip
    add_sharing_arguments(parser)
    add_photometric_options(parser)
    add_model_options(parser)
    add_restyling_options(parser)
    add_label_options(parser)
    args = parser.parse_args(argv)
    if args.shared and args.shard:
        parser.error('--shared takes the place of --shard')
    if args.split and not args.dataset or args.data_root and not args.dataset:
        parser.error('--split and --data-root belong to --dataset')
    if args.dataset and (args.labels or args.source):
        parser.error('--dataset stands in place of --labels and --source')
    return args


def add_photometric_options(parser: argparse.ArgumentParser) -> None:
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


def add_model_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group('options of --backend diffusers')
    group.add_argument('--model', help='folder, file or id of a pipeline')
    add_pretrained_dir(group)
    group.add_argument(
        '--scheduler',
        help='model (its own, the default), auto (Euler, as officially, '
        'where it fits) or a class name of diffusers',
    )
    group.add_argument('--steps', type=int, help="default: the pipeline's own")
    group.add_argument(
        '--guidance', type=float, help="default: the pipeline's own"
    )
    group.add_argument('--negative-prompt')
    group.add_argument('--dtype', help='auto, float32, float16, bfloat16')
    group.add_argument('--device', help='auto, cpu, cuda:N')
    group.add_argument(
        '--offload', choices=['none', 'model', 'sequential'],
        help='with CUDA: keep one part of the model (model) or one layer '
        '(sequential, slow) at a time in its memory',
    )  # fmt: skip
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
        '--lora', metavar='FILE', help='.safetensors file of a LoRA to add'
    )
    group.add_argument(
        '--lora-scale', type=float, help='weight of the LoRA; default 1'
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


def add_restyling_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group('options of --mode img2img and edit')
    group.add_argument(
        '--strength', type=float,
        help='img2img: share of the noise, in (0, 1]; default 0.6',
    )  # fmt: skip
    group.add_argument(
        '--image-guidance', type=float,
        help='edit: how closely the source is followed, where the pipeline '
        'has such a scale (InstructPix2Pix)',
    )  # fmt: skip


def add_label_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group('options of --mode label2img')
    group.add_argument(
        '--dataset', choices=PREPARED_SETS, metavar='NAME',
        help='images and labels of a data set as published or prepared: '
        + ', '.join(PREPARED_SETS),
    )  # fmt: skip
    group.add_argument(
        '--data-root', metavar='DIR', help='its folder, default data/NAME'
    )
    group.add_argument('--split', help='of the data set, default train')
    group.add_argument(
        '--labels', metavar='DIR',
        help='or: folder of label files with train ids, 255 for none',
    )  # fmt: skip
    group.add_argument(
        '--image-end', metavar='END',
        help='with --labels and --source: end of the names of the images, '
        'such as _leftImg8bit.png',
    )  # fmt: skip
    group.add_argument(
        '--label-end', metavar='END',
        help='end of the names of the labels, such as '
        '_gtFine_labelTrainIds.png; default .png',
    )  # fmt: skip
    group.add_argument(
        '--controlnet', metavar='MODEL',
        help='folder or id of a ControlNet for --model; left out where the '
        'pipeline follows an image by itself',
    )  # fmt: skip
    group.add_argument(
        '--control', choices=CONTROLS,
        help='what the ControlNet follows: segmentation (the label map, '
        'default), edges or depth of the source image',
    )  # fmt: skip
    group.add_argument(
        '--control-scale', type=float,
        help="weight of the ControlNet; default: the pipeline's own",
    )  # fmt: skip
    group.add_argument(
        '--palette',
        help='colours of segmentation: ade20k (default), cityscapes, or a '
        'JSON file class -> [R, G, B]',
    )  # fmt: skip
    group.add_argument(
        '--unknown-classes', choices=['error', 'ignore'],
        help='what becomes of classes without a colour: ignore draws them '
        'black and sets them to 255 in the label; needed if there are some',
    )  # fmt: skip
    group.add_argument(
        '--ignore-border', type=int, metavar='N',
        help='label pixels within N of a border between classes become 255; '
        'default 0',
    )  # fmt: skip
    group.add_argument(
        '--depth-model', metavar='MODEL',
        help='of --control depth: folder or id of a depth model of '
        'transformers',
    )  # fmt: skip


def label_maps(args: argparse.Namespace):
    """Return the label maps that the options name, if any."""
    if args.dataset is None:
        return args.labels
    from clouds_mmseg.engine.image_sources import dataset_sources

    return dataset_sources(args.dataset, args.data_root, args.split)


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
            labels=label_maps(args),
            image_end=args.image_end,
            label_end=args.label_end,
            keep_labels=args.keep_labels,
            shard=parse_shard(args.shard) if args.shard else None,
            shared=args.shared,
            lease=args.lease,
            copy_to=args.copy_to,
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
        + (f'; {summary.share}' if summary.share else '')
    )
