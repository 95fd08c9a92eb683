"""Loading speed by image format, decoder and number of workers."""

import argparse
import statistics
import tempfile
from contextlib import contextmanager
from pathlib import Path

import cv2
import torch
from mmseg.registry import DATASETS
from torch.utils.data import Dataset

from benchmark.files import (
    IMAGE_FORMATS,
    PREPARED,
    SETS,
    Mosaic,
    synthetic_image,
    write_set,
)
from benchmark.loading import (
    MMSEG,
    folder_dataset,
    sample_parts,
    throughput,
)
from benchmark.measure import CLOCKS
from benchmark.memory import peak_memory
from benchmark.report import table_of
from clouds_mmseg.cli.config import dataset_configs
from clouds_mmseg.utils.config_file import find_config, read_file
from clouds_mmseg.utils.errors import UserError
from clouds_mmseg.utils.hashing import seed_everything

# Decoders of formats that OpenCV does not read.
_DECODERS = dict(npy='numpy', jxl='pillow')


def run(args: argparse.Namespace, stock: bool = False) -> list[dict]:
    """Run the comparison and print a table for each dataset.

    Args:
        args: Of ``benchmark.py loader``.
        stock: Whether MMSegmentation's own transforms are the reference, in
            place of the published files as the configs read them.

    Returns:
        The rows of all tables.

    Raises:
        UserError: An option is invalid.
    """
    rows = []
    with tempfile.TemporaryDirectory() as folder, _one_thread():
        for cases in _groups(args, folder, stock):
            found = compare(
                cases,
                images=args.images,
                workers=args.workers,
                repeats=args.repeats,
                clock=args.clock,
            )
            parts = []
            for case in cases:
                parts += part_rows(case, args.images, args.clock)
            print(table_of(found))
            print(table_of(parts))
            rows += found + parts
    return rows


@contextmanager
def _one_thread():
    """Limit OpenCV to one thread, as in the workers of a training run."""
    threads = cv2.getNumThreads()
    cv2.setNumThreads(0)
    try:
        yield
    finally:
        cv2.setNumThreads(threads)


def _groups(args, folder, stock):
    """Yield groups of cases that are compared with each other."""
    if args.config:
        yield config_cases(args.config)
        return
    draw = Mosaic(args.photos) if args.photos else None
    for name in args.sets:
        yield format_cases(
            name,
            folder,
            count=min(args.images, 6),
            crop=args.crop,
            size=args.size,
            formats=args.storages,
            draw=draw,
            stock=stock,
        )


def format_cases(
    name: str, folder: Path, *, count: int, crop: int, **options
) -> list[tuple[dict, Dataset]]:
    """Write a dataset in several image formats, for several decoders.

    Args:
        name: One of ``SETS``.
        folder: An empty one.
        count: Images to write.
        crop: Side of the crops.
        **options: ``size`` (tuple[int, int]) in place of the published one,
            ``formats`` (Sequence[str]) in place of all other ones, without
            other decoders, ``draw`` of :func:`write_set`, and ``stock`` of
            :func:`run`.

    Returns:
        First columns of a row, and the dataset. The first case has the
        published files, as the configs read them, unless ``stock``.

    Raises:
        UserError: There is no such dataset or image format.
    """
    if name not in SETS:
        raise UserError(
            f'--sets {name}: known are {", ".join(SETS)}; --config measures '
            'the files of your own'
        )
    files, chosen = SETS[name], options.get('formats')
    unknown = set(chosen or ()) - set(IMAGE_FORMATS)
    if unknown:
        raise UserError(
            f'--storages {min(unknown)}: known are {", ".join(IMAGE_FORMATS)}'
        )
    size = options.get('size') or files.size
    formats = [
        name
        for name in (IMAGE_FORMATS if chosen is None else chosen)
        if name != files.image
    ]
    sizes = write_set(
        Path(folder) / name,
        size,
        [files.image, *formats],
        [files.label, PREPARED],
        count=count,
        draw=options.get('draw') or synthetic_image,
    )
    variants = [
        (files.image, files.label, 'cv2'),
        (files.image, PREPARED, 'cv2'),
    ]
    stock = (files.image, PREPARED, MMSEG)
    if options.get('stock'):
        variants.insert(0, stock)
    elif chosen is None:
        variants.append(stock)
    if chosen is None:
        others = ('pillow', 'torchvision')
        variants += [(files.image, PREPARED, decoder) for decoder in others]
    variants += [
        (image_format, PREPARED, _DECODERS.get(image_format, 'cv2'))
        for image_format in formats
    ]
    return [
        (
            dict(
                name=name,
                storage=image_format,
                MB=sizes[image_format] / 1e6,
                labels=labels,
                decoder=decoder,
            ),
            _dataset(
                Path(folder) / name, size, crop, image_format, labels, decoder
            ),
        )
        for image_format, labels, decoder in variants
    ]


def _dataset(folder, size, crop, image_format, labels, decoder):
    config = folder_dataset(
        folder,
        size,
        crop,
        image_format=image_format,
        labels=labels,
        decoder=decoder,
    )
    dataset = DATASETS.build(config)
    if labels == 'wide':
        dataset.LABEL_CHANNEL = 'first'
    return dataset


def config_cases(path: str) -> list[tuple[dict, Dataset]]:
    """Build the training sets of a config.

    Args:
        path: A config with a ``train_dataloader``.

    Returns:
        First columns of a row, and the dataset.

    Raises:
        UserError: There is no such config, or it does not train.
    """
    config = read_file(find_config(path, '--config'))
    if 'train_dataloader' not in config:
        raise UserError(f'--config {path} has no train_dataloader')
    cases = []
    for leaf in dataset_configs(config.train_dataloader.dataset):
        dataset = DATASETS.build(leaf)
        name = f'{leaf["type"]} {getattr(dataset, "domain", "")}'
        cases.append((dict(name=name), dataset))
    return cases


def compare(
    cases: list[tuple[dict, Dataset]],
    *,
    images: int,
    workers: list[int],
    repeats: int,
    clock: str = 'wall',
) -> list[dict]:
    """Load the datasets interleaved, so that drift affects all alike.

    Args:
        cases: The first one is the baseline.
        images: Images timed per row and repeat.
        workers: Numbers of worker processes.
        repeats: Number of repeats; the median is reported.
        clock: See :func:`throughput`.

    Returns:
        Rows with the median ``images_per_second``, the ``fastest`` repeat (on
        a loaded machine the least disturbed one), its ``spread``
        to the slowest, with the same number of workers the ``ratio`` to the
        first case, and ``peak_MiB``: the memory that loading takes besides
        the libraries, None where it cannot be measured.
    """
    speeds = {
        (case, number): [] for case in range(len(cases)) for number in workers
    }
    for _ in range(repeats):
        for (case, number), found in speeds.items():
            found.append(
                throughput(
                    cases[case][1], images=images, workers=number, clock=clock
                )
            )
    medians = {key: statistics.median(v) for key, v in speeds.items()}
    peaks = [_peak(dataset, images) for _, dataset in cases]
    return [
        dict(
            cases[case][0],
            workers=number,
            images_per_second=medians[case, number],
            fastest=max(found),
            spread=max(found) - min(found),
            ratio=medians[case, number] / medians[0, number],
            peak_MiB=peaks[case],
        )
        for (case, number), found in speeds.items()
    ]


def _peak(dataset, images):
    """Return the additional memory of loading samples one by one, MiB."""
    seed_everything(0)
    with peak_memory(torch.device('cpu')) as peak:
        for index in range(images):
            dataset[index % len(dataset)]
    return None if peak.bytes is None else peak.bytes / 2**20


def part_rows(
    case: tuple[dict, Dataset], images: int, clock: str = 'wall'
) -> list[dict]:
    """Divide the time of a sample among the transforms.

    Args:
        case: First columns of a row, and the dataset.
        images: Over how many samples the mean is taken.
        clock: One of ``CLOCKS``.

    Returns:
        A row a transform.
    """
    row, dataset = case
    row = {k: v for k, v in row.items() if k != 'MB'}
    parts = sample_parts(dataset, images, CLOCKS[clock])
    return [
        dict(row, part=part, unit='ms', ours=seconds * 1000)
        for part, seconds in parts.items()
    ]
