"""How many training samples a second come out of a data loader."""

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
from clouds_mmseg.utils.seeds import seed_everything

# What MMSegmentation's own transforms are called.
MMSEG = 'mmseg'


def pipeline(
    size: tuple[int, int], crop: int, decoder: str = 'cv2'
) -> list[dict]:
    """The official training pipeline.

    Args:
        size: Width and height of the stored images.
        crop: Side of the crops.
        decoder: ``cv2`` or ``pillow`` (of MMCV), one of
            :data:`~benchmark.decoders.READERS`, or ``mmseg``.

    Returns:
        Transforms.
    """
    labels = dict(type='LoadSegLabels')
    if decoder == MMSEG:
        load = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations')]
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
        dict(type='PhotoMetricDistortion'),
        dict(type='PackDGInputs'),
    ]


def folder_dataset(
    folder: Path, size: tuple[int, int], crop: int, **options
) -> dict:
    """The config of a written set.

    Args:
        folder: Of :func:`write_set`.
        size: Width and height of its images.
        crop: Side of the crops.
        **options: ``storage`` (``png`` by default), ``labels``
            (``prepared``), and ``decoder`` (``cv2``).

    Returns:
        Of a ``FolderDataset``.
    """
    storage = options.get('storage', 'png')
    return dict(
        type='FolderDataset',
        domain='source',
        data_root=str(folder),
        data_prefix=dict(
            img_path=storage, seg_map_path=options.get('labels', PREPARED)
        ),
        img_suffix=suffix(storage),
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
    """Load samples and count.

    Args:
        dataset: Of samples.
        images: How many are timed.
        workers: Processes; 0 for this one.
        clock: One of ``CLOCKS``. That of the processor does not count what
            workers do, so they are timed by the wall.
        batch: Samples at a time.

    Returns:
        Samples a second, from the second batch on.
    """
    if not len(dataset):
        raise DataError('the data set has no images: nothing to load')
    # The same scales and crops for all that is compared.
    seed_everything(0)
    loader = DataLoader(
        dataset,
        batch_size=batch,
        sampler=_Endless(len(dataset)),
        num_workers=workers,
        collate_fn=pseudo_collate,
    )
    iterator = iter(loader)
    # Also those that the workers have made while they were started.
    for _ in range(1 + 2 * workers):
        next(iterator)
    batches = max(1, -(-images // batch))
    now = time.perf_counter if workers else CLOCKS[clock]
    start = now()
    for _ in range(batches):
        next(iterator)
    return batches * batch / (now() - start)


class _Endless:
    def __init__(self, size):
        self.size = size

    def __iter__(self):
        return itertools.cycle(range(self.size))

    def __len__(self):
        return 1 << 40


def sample_parts(
    dataset: Dataset, images: int, now: Callable = time.perf_counter
) -> dict[str, float]:
    """Seconds of each transform for one sample.

    Args:
        dataset: With a pipeline.
        images: Over how many samples the mean is taken.
        now: Tells the time.

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
