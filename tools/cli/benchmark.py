"""Command line of ``tools/benchmark.py``."""

import argparse

from clouds_mmseg_cli import names
from clouds_mmseg_cli.cfg_options import CfgOptions

# Size (width, height) and batch size, as in the timings of the official code.
_STEP_SIZES = dict(
    infer=((1024, 512), 1), train=((512, 512), 2), selftrain=((512, 512), 2)
)


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line.

    Args:
        argv: Without the program's name.

    Returns:
        One attribute per option.
    """
    parser = argparse.ArgumentParser(
        description='Measure a workload, optionally interleaved with its '
        'reference implementation.'
    )
    works = parser.add_subparsers(dest='work', required=True, metavar='WORK')
    common = _common()
    for name, what in (
        ('infer', 'images to labels'),
        ('train', 'an optimiser step on labelled crops'),
        (
            'selftrain',
            'the same with one of two crops labelled by the teacher',
        ),
    ):
        step = works.add_parser(name, help=what, parents=[common])
        _add_images(step, *_STEP_SIZES[name])
        step.add_argument(
            '--tower', default='RN50', help='a model of open_clip'
        )
        step.add_argument(
            '--model',
            nargs='+',
            action=CfgOptions,
            default={},
            metavar='KEY=VALUE',
            help='changes to the model, as decode_head.num_queries=50',
        )
        step.add_argument(
            '--changed',
            nargs='+',
            action=CfgOptions,
            default={},
            metavar='KEY=VALUE',
            help='also measure the model with these further changes, in '
            'turn with the other',
        )
        if name == 'infer':
            step.add_argument(
                '--merge',
                action='store_true',
                help='merge the adapter of a tower into its weights',
            )
        if name == 'selftrain':
            _add_self_training(step)
    sampling = works.add_parser(
        'sampling',
        help="one layer's deformable sampling, forward and backward",
        parents=[common],
    )
    _add_images(sampling, *_STEP_SIZES['infer'])
    heads = works.add_parser(
        'heads',
        help='heads of Mask2Former, PMT and EoMT on the same ViT',
        parents=[common],
    )
    _add_images(heads, *_STEP_SIZES['infer'])
    heads.add_argument(
        '--tower', default='vit_small_patch16_dinov3', help='a ViT of timm'
    )
    heads.add_argument(
        '--model',
        nargs='+',
        action=CfgOptions,
        default={},
        metavar='KEY=VALUE',
        help='changes to each model, as decode_head.num_queries=50',
    )
    _add_refine(works, common)
    _add_loader(works, common)
    _add_resume(works, common)
    return parser.parse_args(argv)


def _add_images(work, size, batch):
    work.add_argument('--size', type=_size, default=size, metavar='WxH')
    work.add_argument('--batch', type=int, default=batch)
    work.add_argument(
        '--dtype', choices=names.BENCHMARK_DTYPES, default='fp32'
    )


def _add_self_training(step):
    step.add_argument(
        '--config',
        help='measure the model of a self-training config, not the official '
        'head on --tower',
    )
    step.add_argument(
        '--unlabelled',
        type=int,
        metavar='N',
        help='images of the batch that the teacher labels (default: half)',
    )
    step.add_argument(
        '--cache-features',
        choices=names.FEATURE_DTYPES,
        help='also measure the step with the features of these images read '
        'from a cache, in turn with the other',
    )


def _add_refine(works, common):
    refine = works.add_parser(
        'refine', help="refine a pseudo-label by SAM's masks", parents=[common]
    )
    refine.add_argument(
        '--variant',
        choices=names.BENCHMARK_SAMS,
        default='vit_t',
        help='SAM with random weights: size of MobileSAM, or ViT-B',
    )
    refine.add_argument(
        '--size', type=int, default=768, help='side of the image, pixels'
    )
    refine.add_argument(
        '--sam-size',
        type=int,
        default=1024,
        help="side of SAM's input, pixels",
    )


def _add_loader(works, common):
    loader = works.add_parser(
        'loader', help='training samples per second', parents=[common]
    )
    loader.add_argument(
        '--config', help='measure the training sets of a config'
    )
    loader.add_argument(
        '--sets',
        nargs='+',
        default=list(names.BENCHMARK_SETS),
        metavar='SET',
        help='without --config: published sizes to write and load '
        '(default: all of %(default)s)',
    )
    loader.add_argument(
        '--size', type=_size, metavar='WxH', help='in place of the published'
    )
    loader.add_argument(
        '--storages',
        nargs='+',
        metavar='STORAGE',
        help='image formats to compare with the published files, instead of '
        'all formats and decoders: '
        + ', '.join(names.benchmark_image_formats()),
    )
    loader.add_argument(
        '--photos', help='tile the images from the photographs in a folder'
    )
    loader.add_argument('--crop', type=int, default=768)
    loader.add_argument(
        '--images', type=int, default=20, help='timed for each row'
    )
    loader.add_argument('--workers', nargs='+', type=int, default=[0, 2])


def _add_resume(works, common):
    resume = works.add_parser(
        'resume',
        help='from a checkpoint to the first batch after it',
        parents=[common],
    )
    resume.add_argument('--iteration', type=int, default=40000)
    resume.add_argument(
        '--size',
        type=_size,
        default=(1914, 1052),
        metavar='WxH',
        help='of the stored images',
    )
    resume.add_argument('--crop', type=int, default=512)
    resume.add_argument('--workers', type=int, default=0)
    resume.add_argument(
        '--replayed',
        type=int,
        default=8,
        help='batches from which --against plain is extrapolated',
    )
    resume.add_argument('--tower', default='RN50')
    resume.add_argument(
        '--model',
        nargs='+',
        action=CfgOptions,
        default={},
        metavar='KEY=VALUE',
    )


def _common():
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument(
        '--against',
        choices=['plain'],
        help='also measure the reference implementation in tests/reference',
    )
    common.add_argument('--device', default='auto', help='auto, cpu, cuda:N')
    common.add_argument('--threads', type=int, help='of torch, on CPU')
    common.add_argument('--warmup', type=int, default=1)
    common.add_argument('--repeats', type=int, default=5)
    common.add_argument(
        '--clock',
        choices=list(names.BENCHMARK_CLOCKS),
        default='wall',
        help='cpu: processor time, for a loaded machine',
    )
    common.add_argument('--out', help='write the report here, as JSON')
    return common


def _size(text):
    width, by, height = text.partition('x')
    if not (by and width.isdigit() and height.isdigit()):
        raise argparse.ArgumentTypeError(
            f'{text!r} is no size: write width x height, as 1024x512'
        )
    return int(width), int(height)
