"""Entry point of ``tools/benchmark.py``: run benchmarks, print tables."""

import argparse
import gc
import logging
import tempfile
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from mmengine.logging import MMLogger
from mmengine.registry import init_default_scope

from benchmark.measure import CLOCKS, interleave
from benchmark.reference import load_reference
from benchmark.report import (
    CHANGED,
    OURS,
    environment,
    rows_of,
    table_of,
    write_json,
)
from benchmark.setting import DTYPES, Setting
from clouds_mmseg.utils.errors import UserError


def run(args: argparse.Namespace, reference_folder: Path) -> list[dict]:
    """Run the benchmark of the command line and print its tables.

    Args:
        args: Result of :func:`parse_args`.
        reference_folder: Folder of the reference implementation.

    Returns:
        The rows of the report.

    Raises:
        UserError: An option is invalid.
    """
    for name, low in (('warmup', 0), ('repeats', 1), ('threads', 1)):
        value = getattr(args, name)
        if value is not None and value < low:
            raise UserError(f'--{name} must be at least {low}, got {value}')
    workers = getattr(args, 'workers', 0)
    if min(workers if isinstance(workers, list) else [workers]) < 0:
        raise UserError(f'--workers must be at least 0, got {workers}')
    init_default_scope('mmseg')
    # Garbage is collected before each run; skip the imported modules.
    gc.freeze()
    if args.threads:
        torch.set_num_threads(args.threads)
    device = _device(args.device)
    reference = load_reference(reference_folder) if args.against else None
    with _log_errors_only():
        rows = _WORKS[args.work](args, device, reference)
    if args.out:
        options = dict(vars(args), device=str(device))
        write_json(args.out, options=options, **environment(), rows=rows)
        print(f'written to {args.out}')
    return rows


@contextmanager
def _log_errors_only():
    """Hide the warning about random weights, which are intended here."""
    logger = MMLogger.get_current_instance()
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


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


def _measure(args, title, cases, device):
    """Measure, print a table, return its rows."""
    found = interleave(
        cases,
        device=device,
        warmup=args.warmup,
        repeats=args.repeats,
        clock=args.clock,
    )
    rows = [dict(work=title, **row) for row in rows_of(found)]
    print(f'\n{title}, {args.repeats} repeats, {args.clock} time')
    print(table_of(rows, found))
    return rows, found


def _step(args, device, reference):
    from benchmark import roofline, steps

    config, unlabelled = None, 0
    if args.work == 'selftrain':
        config, unlabelled = args.config, args.unlabelled
        if unlabelled is None:
            unlabelled = args.batch // 2
        if not 0 <= unlabelled <= args.batch:
            raise UserError(
                f'--unlabelled must lie in 0..{args.batch} (--batch), got '
                f'{unlabelled}'
            )
    setting = Setting(
        device=device,
        dtype=args.dtype,
        tower=args.tower,
        size=args.size,
        batch=args.batch,
        model=args.model,
        config=config,
    )
    width, height = args.size
    what = f'{args.work} {args.batch} x {width}x{height} {args.dtype}'
    tower = args.model.get('backbone.model_name', args.tower)
    print(f'{environment()["machine"]}, tower {tower}')
    if args.work == 'infer':
        build = partial(steps.inference, merge=args.merge)
    else:
        build = partial(steps.training, unlabelled=unlabelled)
    cases = build(setting, reference)
    if args.changed:
        changed = replace(setting, model={**args.model, **args.changed})
        cases[CHANGED] = build(changed)[OURS]
    with _cached_case(args, setting, cases, unlabelled):
        rows, found = _measure(args, what, cases, device)
    rows += _bounds(
        what,
        'arithmetic',
        'FLOP',
        roofline.count_operations(cases[OURS]),
        found[OURS],
        roofline.matmul_rate(device, DTYPES[args.dtype]),
    )
    if args.work == 'infer' and reference:
        share, classes = steps.agreement(found)
        print(f'agree on {share:.4%} of the pixels, of {classes} classes')
        rows.append(
            dict(work=what, name='agreement', ours=share, classes=classes)
        )
    if args.work == 'selftrain':
        rows += _measure(
            args,
            'update of the teacher',
            steps.teacher_update(setting, reference),
            device,
        )[0]
    return rows


@contextmanager
def _cached_case(args, setting, cases, unlabelled):
    """Add ours with a cache of features, while it is measured."""
    dtype = getattr(args, 'cache_features', None)
    if not dtype:
        yield
        return
    from benchmark import steps
    from clouds_mmseg.models.segmentors.feature_cache import FeatureCache
    from clouds_mmseg.utils.array_cache import ArrayCache

    if args.changed or args.warmup < 1:
        raise UserError(
            '--cache-features is compared with the step without it, after a '
            'warm-up that fills the cache: leave --changed out, and give '
            '--warmup of at least 1'
        )
    with tempfile.TemporaryDirectory() as folder:
        store = ArrayCache(folder, 10**11)
        cache = FeatureCache(store, '', half=dtype == 'float16')
        other = steps.training(setting, unlabelled=unlabelled, cache=cache)
        cases[CHANGED] = other[OURS]
        yield
        print(
            f'the cache holds {store.used_bytes() / 2**20:.1f} MiB of '
            f'{unlabelled} images'
        )


def _bounds(work, title, unit, amounts, measurement, rate):
    """Print and return the hardware bounds of our implementation."""
    from benchmark.roofline import bound_rows

    rows = [
        dict(work=work, **row)
        for row in bound_rows(title, unit, amounts, measurement, rate)
    ]
    print(f'\nours, at the {rate / 1e9:,.1f} G{unit}/s of this machine')
    print(table_of(rows))
    return rows


def _sampling(args, device, reference):
    from benchmark import roofline
    from benchmark.sampling import sampling

    print(environment()['machine'])
    cases, traffic = sampling(
        args.size, args.batch, args.dtype, device, reference
    )
    width, height = args.size
    what = f'sampling {args.batch} x {width}x{height} {args.dtype}'
    rows, found = _measure(args, what, cases, device)
    return rows + _bounds(
        what,
        'traffic',
        'B',
        traffic,
        found[OURS],
        roofline.copy_rate(device),
    )


def _refine(args, device, reference):
    from benchmark import refining

    print(f'{environment()["machine"]}, SAM {args.variant} of random weights')
    rows = []
    for epoch in refining.EPOCHS:
        with tempfile.TemporaryDirectory() as folder:
            cases = refining.refinement(
                epoch,
                variant=args.variant,
                side=args.sam_size,
                size=args.size,
                device=device,
                folder=Path(folder),
                reference=reference,
            )
            title = f'refine {args.size}x{args.size}, {epoch}'
            rows += _measure(args, title, cases, device)[0]
    return rows


def _heads(args, device, reference):
    from benchmark import heads, roofline

    del reference
    setting = Setting(
        device=device,
        dtype=args.dtype,
        tower=args.tower,
        size=args.size,
        batch=args.batch,
        model=args.model,
    )
    print(f'{environment()["machine"]}, tower {args.tower}')
    models = heads.build(setting)
    rows = heads.parameter_rows(models)
    print(table_of(rows))
    width, height = args.size
    what = f'{args.batch} x {width}x{height} {args.dtype}'
    for title, cases in (
        (f'head alone, {what}', heads.head_cases(setting, models)),
        (f'tower and head, {what}', heads.model_cases(setting, models)),
    ):
        found, measured = _measure(args, title, cases, device)
        rows += found
        median = {name: m.median for name, m in measured.items()}
        speed = {
            name: f'{median["CLOUDSHead"] / value:.2f}'
            for name, value in median.items()
        }
        rows.append(dict(work=title, name='times faster', **speed))
        operations = {
            name: roofline.count_operations(case)['whole']
            for name, case in cases.items()
        }
        rows.append(
            dict(work=title, name='operations', unit='FLOP', **operations)
        )
        print(table_of(rows[-2:]))
    return rows


def _loader(args, device, reference):
    from benchmark import image_formats

    del device
    print(environment()['machine'])
    return image_formats.run(args, stock=bool(reference))


def _resume(args, device, reference):
    from benchmark import resuming

    if args.iteration < 2:
        raise UserError(
            f'--iteration must be at least 2, got {args.iteration}'
        )
    del device
    with tempfile.TemporaryDirectory() as folder:
        case = resuming.ResumeCase(
            folder,
            tower=args.tower,
            model=args.model,
            size=args.size,
            crop=args.crop,
            workers=args.workers,
            clock=CLOCKS[args.clock],
        )
        rows = resuming.compare(
            case,
            args.iteration,
            warmup=args.warmup,
            repeats=args.repeats,
            replayed=args.replayed if reference else 0,
        )
    print(environment()['machine'])
    print(table_of(rows))
    return rows


_WORKS = dict(
    sampling=_sampling,
    infer=_step,
    train=_step,
    selftrain=_step,
    heads=_heads,
    refine=_refine,
    loader=_loader,
    resume=_resume,
)
