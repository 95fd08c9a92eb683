"""Filling the cache of a refiner before training begins."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mmengine.config import Config
from mmengine.logging import print_log
from mmengine.registry import init_default_scope
from mmseg.registry import DATASETS, MODELS
from torch.utils.data import Dataset
from tqdm import tqdm

from clouds_mmseg.cli.config import dataset_configs
from clouds_mmseg.cli.config_check import hook_configs
from clouds_mmseg.engine.hooks.feature_cache import require_room, stored_view
from clouds_mmseg.engine.self_training_runner import require_generated_images
from clouds_mmseg.models.segmentors.self_training_segmentor import (
    with_clean_views,
)
from clouds_mmseg.predict.loading import find_device
from clouds_mmseg.utils.array_cache import ArrayCache
from clouds_mmseg.utils.errors import UserError
from clouds_mmseg.utils.hashing import hash_text
from clouds_mmseg.utils.shared_work import (
    LEASE_SECONDS,
    ChunksLost,
    Share,
    SharedWork,
    split,
)

_WHO = 'clouds cache'


@dataclass
class CacheSummary:
    """Result of :func:`fill_refiner_cache`.

    Attributes:
        images: Whose entries the cache has.
        folder: Of the cache, or its address.
        nbytes: Size of all that is in it.
        share: What this process did of work that was shared.
    """

    images: int
    folder: Path | str
    nbytes: int = 0
    share: Share | None = None


def fill_refiner_cache(
    cfg: Config,
    *,
    device: str | None = None,
    shared: bool = False,
    lease: float = LEASE_SECONDS,
) -> CacheSummary:
    """Compute what the refiner of a training computes of its images alone.

    Embeddings, masks, segments or scores of the unlabelled images go to the
    refiner's ``cache_dir``, where training finds them: the same bits as it
    would compute. The size of all is estimated from the first image, logged
    and compared with disk and bound before the others are computed.

    Args:
        cfg: Of the training.
        device: That the refiner runs on; by default the first GPU, or the
            CPU.
        shared: Whether any number of processes that are started so, on any
            machines, take parts of the work until it is done.
        lease: See :class:`~clouds_mmseg.utils.shared_work.SharedWork`.

    Raises:
        UserError: The config has no refiner with a cache, or no unlabelled
            images as they are stored; the cache does not fit, or cannot be
            written.
    """
    init_default_scope('mmseg')
    config = _refiner_config(cfg)
    for bank in cfg.get('banks', []):
        # One process of several must not begin to make it.
        require_generated_images(dict(bank), 'shared' if shared else 'none')
    images = [
        (dataset, index)
        for dataset in _unlabelled_sets(cfg)
        for index in range(len(dataset))
    ]
    preprocessor = MODELS.build(with_clean_views(cfg.model.data_preprocessor))
    refiner = MODELS.build(config).to(find_device(device))
    store = _cache_of(refiner, config)

    def fill(number: int) -> tuple[str, int]:
        sample = stored_view(*images[number], _WHO)
        key = refiner.fill_cache(preprocessor.clean_rgb(sample))
        size = store.size(key)
        if size is None:
            raise UserError(
                f'{_WHO}: {store.folder}/{store.name(key)} could not be '
                'written, the warning above says why'
            )
        return store.name(key), size

    size = fill(0)[1] * len(images)
    said = require_room(
        store,
        size,
        _WHO,
        f'what {config["type"]} keeps of {len(images):,} images, each as '
        f'large as the first, takes about {size / 1e9:.2f} GB',
        'or choose another cache_dir',
    )
    print_log(said, 'current')
    summary = CacheSummary(len(images), store.folder)
    if shared:
        arguments = dict(
            # Values that JSON has no type for are told apart by their text.
            refiner=json.dumps(config, sort_keys=True, default=str),
            images=hash_text(
                *(d.get_data_info(i)['img_path'] for d, i in images)
            ),
        )
        summary.share = _fill_shared(
            store, arguments, len(images), lambda i: fill(i)[0], lease
        )
    else:
        for number in tqdm(
            range(1, len(images)), 'cache', unit='img', disable=None
        ):
            fill(number)
    summary.nbytes = store.used_bytes()
    return summary


def _fill_shared(store, arguments, count, fill, lease):
    """Fill the cache together with other processes."""
    chunks = split(count)
    job = SharedWork(
        store.folder, 'cache', arguments, chunks=len(chunks), lease=lease
    )

    def finish(results):
        there = store.sizes()
        lost = [
            number
            for number, names in enumerate(results)
            if not there.keys() >= set(names)
        ]
        if lost:
            raise ChunksLost(lost)

    return job.run(lambda c: [fill(i) for i in chunks[c.number]], finish)


def _refiner_config(cfg):
    """Return the config of the refiner that training builds."""
    for hook in hook_configs(cfg):
        if hook.get('type') == 'SAMRefineHook':
            return hook['refiner']
    raise UserError(
        f'{_WHO}: {cfg.filename} has no SAMRefineHook, so that its training '
        'refines nothing; give the config of a self-training with a refiner'
    )


def _cache_of(refiner, config) -> ArrayCache:
    if not hasattr(refiner, 'fill_cache'):
        raise UserError(
            f'{_WHO}: {config["type"]} has no method fill_cache, which keeps '
            'what it computes of an image alone'
        )
    if refiner.cache is None:
        raise UserError(
            f'{_WHO}: {config["type"]} has no cache_dir, the folder of its '
            'cache: give it one in the config, with which training reads it'
        )
    return refiner.cache


def _unlabelled_sets(cfg: Config) -> Iterator[Dataset]:
    """Open the training sets without labels; the others are not needed."""
    found = False
    for config in dataset_configs(cfg.train_dataloader.dataset):
        dataset = DATASETS.build(dict(config, lazy_init=True))
        if not getattr(dataset, 'has_labels', True):
            dataset.full_init()
            found = True
            yield dataset
    if not found:
        raise UserError(
            f'{_WHO}: {cfg.filename} trains on no unlabelled images, whose '
            'labels could be refined'
        )
