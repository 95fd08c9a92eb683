"""The command line of ``tools/benchmark.py``."""

import argparse
import logging

import torch
from mmengine.config import DictAction
from mmengine.logging import MMLogger
from mmengine.registry import init_default_scope

from clouds_mmseg.benchmark.measure import CLOCKS, alternate
from clouds_mmseg.benchmark.plain import load_plain
from clouds_mmseg.benchmark.report import (
    environment,
    rows_of,
    table_of,
    write_json,
)
from clouds_mmseg.benchmark.setting import DTYPES, Setting
from clouds_mmseg.utils.errors import UserError

# Official: images short edge 512 here, crops of 512 as in the published
# timings, and the 768 x 768 of generated images.
_STEP_SIZES = dict(
    infer=((1024, 512), 1), train=((512, 512), 2), selftrain=((512, 512), 2)
)


def parse_args(argv=None):
    """Read the command line.

    Args:
        argv (list[str], optional): Without the program's name.

    Returns:
        argparse.Namespace: One attribute an option.
    """
    parser = argparse.ArgumentParser(
        description='Measure a piece of work, alone or in turn with the '
        'plain formulation of it.'
    )
    works = parser.add_subparsers(dest='work', required=True, metavar='WORK')
    common = _common()
    for name, what in (
        ('infer', 'images to labels'),
        ('train', 'an optimiser step on labelled crops'),
        ('selftrain', 'the same, one crop of two labelled by the teacher'),
    ):
        step = works.add_parser(name, help=what, parents=[common])
        size, batch = _STEP_SIZES[name]
        step.add_argument('--size', type=_size, default=size, metavar='WxH')
        step.add_argument('--batch', type=int, default=batch)
        step.add_argument(
            '--tower', default='RN50', help='a model of open_clip'
        )
        step.add_argument('--dtype', choices=DTYPES, default='fp32')
        step.add_argument(
            '--model',
            nargs='+',
            action=DictAction,
            default={},
            metavar='KEY=VALUE',
            help='changes to the model, as decode_head.num_queries=50',
        )
    return parser.parse_args(argv)


def _common():
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument(
        '--against',
        choices=['plain'],
        help='measure the plain formulation of tests/plain in turn',
    )
    common.add_argument('--device', default='auto', help='auto, cpu, cuda:N')
    common.add_argument('--threads', type=int, help='of torch, on CPU')
    common.add_argument('--warmup', type=int, default=1)
    common.add_argument('--repeats', type=int, default=5)
    common.add_argument(
        '--clock',
        choices=list(CLOCKS),
        default='wall',
        help='cpu: processor time, where the machine has other work',
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


def run(args, plain_folder):
    """Do what the command line asks for, and print the tables.

    Args:
        args (argparse.Namespace): Of :func:`parse_args`.
        plain_folder (Path): Where the plain formulation lies.

    Returns:
        list[dict]: The rows of the report.

    Raises:
        UserError: An option that cannot be.
    """
    for name, low in (('warmup', 0), ('repeats', 1), ('threads', 1)):
        value = getattr(args, name)
        if value is not None and value < low:
            raise UserError(f'--{name} must be at least {low}, got {value}')
    # The frozen tower says that its weights are random, which is meant.
    MMLogger.get_current_instance().setLevel(logging.ERROR)
    init_default_scope('mmseg')
    if args.threads:
        torch.set_num_threads(args.threads)
    device = _device(args.device)
    plain = load_plain(plain_folder) if args.against else None
    rows = _WORKS[args.work](args, device, plain)
    if args.out:
        options = dict(vars(args), device=str(device))
        write_json(args.out, options=options, **environment(), rows=rows)
        print(f'written to {args.out}')
    return rows


def _device(name):
    if name == 'auto':
        name = 'cuda' if torch.cuda.is_available() else 'cpu'
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UserError(
            f'--device {name}: give auto, cpu, cuda or cuda:N'
        ) from error
    if device.type == 'cuda' and not torch.cuda.is_available():
        raise UserError(f'--device {name}: torch finds no CUDA device here')
    return device


def _measure(args, title, contenders, device):
    """Measure, print a table, return its rows."""
    found = alternate(
        contenders,
        device=device,
        warmup=args.warmup,
        repeats=args.repeats,
        clock=args.clock,
    )
    rows = [dict(work=title, **row) for row in rows_of(found)]
    print(f'\n{title}, {args.repeats} repeats, {args.clock} time')
    print(table_of(rows, found))
    return rows, found


def _step(args, device, plain):
    from clouds_mmseg.benchmark import steps

    unlabelled = args.batch // 2 if args.work == 'selftrain' else 0
    setting = Setting(
        device=device,
        dtype=args.dtype,
        tower=args.tower,
        size=args.size,
        batch=args.batch,
        model=args.model,
    )
    width, height = args.size
    what = f'{args.work} {args.batch} x {width}x{height} {args.dtype}'
    print(f'{environment()["machine"]}, tower {args.tower}')
    if args.work == 'infer':
        contenders = steps.inference(setting, plain)
    else:
        contenders = steps.training(setting, plain, unlabelled=unlabelled)
    rows, found = _measure(args, what, contenders, device)
    if args.work == 'infer' and plain:
        share = steps.agreement(found)
        print(f'agree on {share:.4%} of the pixels')
        rows.append(dict(work=what, name='agreement', ours=share))
    if args.work == 'selftrain':
        rows += _measure(
            args,
            'update of the teacher',
            steps.teacher_update(setting, plain),
            device,
        )[0]
    return rows


_WORKS = dict(infer=_step, train=_step, selftrain=_step)
