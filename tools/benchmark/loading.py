"""Throughput of a data loader in training samples per second."""

import itertools
import time
from collections.abc import Callable
from pathlib import Path

from mmengine.dataset import pseudo_collate
from torch.utils.data import DataLoader, Dataset

from benchmark.decoders import READERS
from benchmark.files import PREPARED, suffix
from benchmark.measure import CLOCKS
from benchmark.parts import RegionTimer, TimedMethod
from clouds_mmseg.utils.cityscapes import CLASSES, PALETTE
from clouds_mmseg.utils.errors import DataError
from clouds_mmseg.utils.hashing import seed_everything

# Name of MMSegmentation's own transforms as a decoder.
MMSEG = 'mmseg'


def pipeline(
    size: tuple[int, int], crop: int, decoder: str = 'cv2'
) -> list[dict]:
    """Return the official training pipeline.

    Args:
        size: Width and height of the stored images.
        crop: Side of the crops.
        decoder: ``cv2`` or ``pillow`` (of MMCV), one of
            :data:`~benchmark.decoders.READERS`, or ``mmseg``.

    Returns:
        Transforms.
    """
    labels = dict(type='LoadSegLabels')
    colours = 'FastPhotoMetricDistortion'
    if decoder == MMSEG:
        load = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations')]
        colours = 'PhotoMetricDistortion'
    elif decoder in READERS:
        load = [dict(type='LoadToCompare', decoder=decoder), labels]
    else:
        load = [dict(type='LoadSegImage', imdecode_backend=decoder), labels]
    return [
        *load,
        dict(
            type='RandomResize',
            scale=size,
            ratio_range=(0.5, 2.0),
            keep_ratio=True,
        ),
        dict(type='RandomCrop', crop_size=(crop, crop)),
        dict(type='RandomFlip', prob=0.5),
        dict(type=colours),
        dict(type='PackDGInputs'),
    ]


def folder_dataset(
    folder: Path, size: tuple[int, int], crop: int, **options
) -> dict:
    """Return the config of a written dataset.

    Args:
        folder: Folder of :func:`write_set`.
        size: Width and height of its images.
        crop: Side of the crops.
        **options: ``image_format`` (``png`` by default), ``labels``
            (``prepared``), and ``decoder`` (``cv2``).

    Returns:
        Config of a ``FolderDataset``.
    """
    image_format = options.get('image_format', 'png')
    return dict(
        type='FolderDataset',
        domain='source',
        data_root=str(folder),
        data_prefix=dict(
            img_path=image_format, seg_map_path=options.get('labels', PREPARED)
        ),
        img_suffix=suffix(image_format),
        metainfo=dict(classes=CLASSES, palette=PALETTE),
        pipeline=pipeline(size, crop, options.get('decoder', 'cv2')),
    )


def throughput(
    dataset: Dataset,
    *,
    images: int,
    workers: int,
    clock: str = 'wall',
    batch: int = 2,
) -> float:
    """Measure the throughput of a data loader.

    Args:
        dataset: Training dataset.
        images: Number of timed samples.
        workers: Processes; 0 for this one.
        clock: One of ``CLOCKS``. Processor time does not include worker
            processes, so with workers wall time is used.
        batch: Batch size.

    Returns:
        Samples per second, from the second batch on.
    """
    if not len(dataset):
        raise DataError('the data set has no images: nothing to load')
    # Same scales and crops for all cases.
    seed_everything(0)
    loader = DataLoader(
        dataset,
        batch_size=batch,
        sampler=_InfiniteSampler(len(dataset)),
        num_workers=workers,
        collate_fn=pseudo_collate,
    )
    iterator = iter(loader)
    # Skip batches that were prefetched while the workers started.
    for _ in range(1 + 2 * workers):
        next(iterator)
    batches = max(1, -(-images // batch))
    now = time.perf_counter if workers else CLOCKS[clock]
    start = now()
    for _ in range(batches):
        next(iterator)
    return batches * batch / (now() - start)


class _InfiniteSampler:
    def __init__(self, size):
        self.size = size

    def __iter__(self):
        return itertools.cycle(range(self.size))

    def __len__(self):
        return 1 << 40


def sample_parts(
    dataset: Dataset, images: int, now: Callable = time.perf_counter
) -> dict[str, float]:
    """Measure the seconds per sample of each transform.

    Args:
        dataset: With a pipeline.
        images: Number of samples averaged.
        now: Clock in seconds.

    Returns:
        Name of the transform -> seconds.
    """
    clock = RegionTimer(lambda: None, now)
    watches = [
        TimedMethod(step, 'transform', type(step).__name__)
        for step in dataset.pipeline.transforms
    ]
    dataset[0]
    with clock.watching(watches):
        for index in range(images):
            dataset[index % len(dataset)]
    return {k: v / images for k, v in clock.seconds.items()}
