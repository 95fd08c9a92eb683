"""How many training samples a second come out of a data loader."""

import itertools
import time
from pathlib import Path

from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmseg.registry import DATASETS
from torch.utils.data import DataLoader

from clouds_mmseg.benchmark.files import SETS, STORAGES, write_set
from clouds_mmseg.benchmark.parts import PartClock, Watch
from clouds_mmseg.datasets.errors import DataError
from clouds_mmseg.engine.launch import dataset_configs
from clouds_mmseg.utils.cityscapes import CLASSES, PALETTE
from clouds_mmseg.utils.errors import UserError

DECODERS = ('cv2', 'pillow')
# What MMSegmentation's own transforms are called; the first row is theirs.
MMSEG = 'mmseg'


def pipeline(size, crop, decoder='cv2'):
    """The official training pipeline.

    Args:
        size (tuple[int, int]): Width and height of the stored images.
        crop (int): Side of the crops.
        decoder (str): One of :data:`DECODERS`, or ``mmseg``.

    Returns:
        list[dict]: Transforms.
    """
    if decoder == MMSEG:
        load = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations')]
    else:
        load = [
            dict(type='LoadSegImage', imdecode_backend=decoder),
            dict(type='LoadSegLabels'),
        ]
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


def folder_dataset(folder, size, crop, *, storage='png', decoder='cv2'):
    """The config of a written set.

    Args:
        folder (Path): Of :func:`write_set`.
        size (tuple[int, int]): Width and height of its images.
        crop (int): Side of the crops.
        storage (str): Of its images.
        decoder (str): See :func:`pipeline`.

    Returns:
        dict: Of a ``FolderDataset``.
    """
    return dict(
        type='FolderDataset',
        domain='source',
        data_root=str(folder),
        img_suffix=STORAGES[storage][0],
        metainfo=dict(classes=CLASSES, palette=PALETTE),
        pipeline=pipeline(size, crop, decoder),
    )


def throughput(dataset, *, images, workers, batch=2):
    """Load samples and count.

    Args:
        dataset (Dataset): Of samples.
        images (int): How many are timed.
        workers (int): Processes; 0 for this one.
        batch (int): Samples at a time.

    Returns:
        float: Samples a second, from the second batch on.
    """
    if not len(dataset):
        raise DataError('the data set has no images: nothing to load')
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
    start = time.perf_counter()
    for _ in range(batches):
        next(iterator)
    return batches * batch / (time.perf_counter() - start)


class _Endless:
    def __init__(self, size):
        self.size = size

    def __iter__(self):
        return itertools.cycle(range(self.size))

    def __len__(self):
        return 1 << 40


def sample_parts(dataset, images, now=time.perf_counter):
    """Seconds of each transform for one sample.

    Args:
        dataset (Dataset): With a pipeline.
        images (int): Over how many samples the mean is taken.
        now (Callable): Tells the time.

    Returns:
        dict[str, float]: Name of the transform -> seconds.
    """
    clock = PartClock(lambda: None, now)
    watches = [
        Watch(step, 'transform', type(step).__name__)
        for step in dataset.pipeline.transforms
    ]
    dataset[0]
    with clock.watching(watches):
        for index in range(images):
            dataset[index % len(dataset)]
    return {k: v / images for k, v in clock.seconds.items()}


def compare_storages(name, folder, *, images, workers, crop, size=None):
    """Load a set in several storages, by several decoders.

    Args:
        name (str): One of ``SETS``.
        folder (Path): An empty one.
        images (int): Timed, for each row.
        workers (list[int]): Numbers of processes.
        crop (int): Side of the crops.
        size (tuple[int, int], optional): Instead of the published one.

    Yields:
        dict: A row; ``ratio`` is to MMSegmentation's own loading of PNG
        files with the first number of workers.
    """
    if name not in SETS:
        raise UserError(
            f'--sets {name}: known are {", ".join(SETS)}; --config measures '
            'the files of your own'
        )
    size = size or SETS[name]
    first = None
    ways = [('png', MMSEG), ('png', 'cv2'), ('png', 'pillow')]
    ways += [(storage, 'cv2') for storage in list(STORAGES)[1:]]
    written = {}
    for storage, decoder in ways:
        root = folder / name / storage
        if storage not in written:
            written[storage] = write_set(
                root, size, storage, count=min(images, 6)
            )
        config = folder_dataset(
            root, size, crop, storage=storage, decoder=decoder
        )
        dataset = DATASETS.build(config)
        for number in workers:
            speed = throughput(dataset, images=images, workers=number)
            first = first or speed
            yield dict(
                name=name,
                storage=storage,
                KiB=written[storage] // 1024,
                decoder=decoder,
                workers=number,
                images_per_second=speed,
                ratio=speed / first,
            )


def config_datasets(path):
    """Find the training sets of a config.

    Args:
        path (str): A config with a ``train_dataloader``.

    Returns:
        list[dict]: Configs of data sets that have a pipeline.

    Raises:
        UserError: There is no such config, or it does not train.
    """
    if not Path(path).is_file():
        raise UserError(f'--config {path}: there is no such file')
    config = Config.fromfile(path)
    if 'train_dataloader' not in config:
        raise UserError(f'--config {path} has no train_dataloader')
    return list(dataset_configs(config.train_dataloader.dataset))


def measure_config(datasets, *, images, workers):
    """Load the sets of a config as it says.

    Args:
        datasets (list[dict]): Configs of data sets with a pipeline.
        images (int): Timed, for each row.
        workers (list[int]): Numbers of processes.

    Yields:
        dict: A row; ``ratio`` is to the first row of the same set.
    """
    for config in datasets:
        dataset = DATASETS.build(config)
        first = None
        for number in workers:
            speed = throughput(dataset, images=images, workers=number)
            first = first or speed
            yield dict(
                name=f'{config["type"]} {getattr(dataset, "domain", "")}',
                workers=number,
                images_per_second=speed,
                ratio=speed / first,
            )
