"""Hook that keeps what a frozen tower computes of images that never change."""

import json
from collections.abc import Iterator

import torch
from mmcv.transforms import LoadImageFromFile
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmengine.structures import PixelData
from mmseg.registry import HOOKS
from mmseg.structures import SegDataSample
from torch.utils.data import Dataset

from clouds_mmseg.datasets.transforms import KeepCleanView, LoadSegLabels
from clouds_mmseg.engine.run_state import unwrap_model
from clouds_mmseg.models.segmentors.feature_cache import FeatureCache
from clouds_mmseg.utils.array_cache import ArrayCache
from clouds_mmseg.utils.data_root import resolve_data_root
from clouds_mmseg.utils.errors import UserError
from clouds_mmseg.utils.hashing import hash_text
from clouds_mmseg.weights.integrity import content_sha256

DTYPES = ('float16', 'float32')


@HOOKS.register_module()
class FeatureCacheHook(Hook):
    """Compute the features of the teacher's views of each image only once.

    For a :class:`SelfTrainingSegmentor` whose tower is frozen: its clean
    views are the images as they are stored, so the first epoch writes their
    features and those of ``teacher_views``, and later epochs and runs with
    the same tower read them. What labelled images become by random scales,
    crops and colours is new each time and is not kept.

    When training begins, the size of all features is logged and compared with
    the disk. Before that nothing is written.

    Args:
        cache_dir: Folder, or its address (``s3://...``), with a subfolder for
            each tower (its weights, settings and normalisation). ``data/...``
            is moved by ``CLOUDS_DATA_ROOT``. Several runs and processes may
            share it.
        dtype: ``'float16'``, half the size, or ``'float32'``, which rounds
            nothing.
        cache_bytes: Bound on the size of a subfolder.

    Raises:
        UserError: ``dtype`` is unknown. In a run: the model labels nothing,
            its tower is not frozen or has an adapter, the clean views are not
            the stored images, or disk or bound are too small.
    """

    # Before PseudoLabelAccuracyHook, which labels images at the beginning.
    priority = 'ABOVE_NORMAL'

    def __init__(
        self,
        cache_dir: str,
        *,
        dtype: str = 'float16',
        cache_bytes: int = 200_000_000_000,
    ):
        if dtype not in DTYPES:
            raise UserError(
                f'FeatureCacheHook: dtype must be one of {", ".join(DTYPES)},'
                f' got {dtype!r}'
            )
        self.cache_dir = resolve_data_root(cache_dir)
        self.dtype = dtype
        self.cache_bytes = cache_bytes

    def before_train(self, runner: Runner) -> None:
        """Give the model its cache, if there is room for it."""
        model = unwrap_model(runner.model)
        _require_fixed_tower(model)
        cfg = runner.cfg.model
        tower = content_sha256(
            model.backbone.state_dict(),
            dict(
                backbone=_plain(cfg.backbone),
                preprocessor=_plain(cfg.get('data_preprocessor')),
            ),
        )
        tower = hash_text(tower, self.dtype)
        store = ArrayCache(f'{self.cache_dir}/{tower}', self.cache_bytes)
        model.feature_cache = FeatureCache(
            store, tower, half=self.dtype == 'float16'
        )
        try:
            self._check_room(runner, model, store)
        except BaseException:
            model.feature_cache = None
            raise

    def after_train(self, runner: Runner) -> None:
        """Take the cache from the model."""
        unwrap_model(runner.model).feature_cache = None

    def _check_room(self, runner, model, store):
        count = need = 0
        for leaf in unlabelled_sets(runner.train_loop.dataloader.dataset):
            count += len(leaf)
            view = stored_view(leaf, 0, 'FeatureCacheHook')
            view = view.to(next(model.parameters()).device)
            need += len(leaf) * model.cached_bytes(view)
        if not count:
            raise UserError(
                'FeatureCacheHook: training has no unlabelled images, whose '
                'features it could keep; leave it out'
            )
        views = 1 + len(model.teacher_views)
        smaller = '' if self.dtype == 'float16' else 'dtype=float16, '
        said = require_room(
            store,
            need,
            'FeatureCacheHook',
            f'the features of {count:,} images in {views} view'
            f'{"s" * (views > 1)} take about {need / 1e9:.2f} GB as '
            f'{self.dtype}',
            f'choose {smaller}another cache_dir, or leave the hook out',
        )
        runner.logger.info(said)


def require_room(
    store: ArrayCache, need: int, who: str, size: str, way_out: str
) -> str:
    """Compare what a cache will take with its bound and its disk.

    Args:
        store: The cache.
        need: Bytes of all its entries.
        who: That fills it, for messages.
        size: What ``need`` is of, in words.
        way_out: What a user can do but make room.

    Returns:
        The sizes, for the log.

    Raises:
        UserError: It is too much.
    """
    there = store.used_bytes()
    free = store.free_bytes()
    if need > store.capacity:
        least = int(need * store.max_bytes / store.capacity) + 1
        raise UserError(
            f'{who}: {size}, more than cache_bytes={store.max_bytes:,} keeps: '
            f'give at least cache_bytes={least}, {way_out}'
        )
    said = f'Cache {store.folder}: {size}, {there / 1e9:.2f} are there'
    if free is None:
        return said
    if need - there > free:
        raise UserError(
            f'{who}: {size}, of which {there / 1e9:.2f} are there; the disk '
            f'of {store.folder} has {free / 1e9:.2f} GB free: make room, '
            f'{way_out}'
        )
    return f'{said}, the disk has {free / 1e9:.2f} GB free'


def unlabelled_sets(dataset: Dataset) -> Iterator[Dataset]:
    """Yield the data sets in a training set whose images have no label."""
    parts = getattr(dataset, 'datasets', None)
    if parts is not None:
        for part in parts:
            yield from unlabelled_sets(part)
    elif not getattr(dataset, 'has_labels', True):
        yield dataset


def _require_fixed_tower(model):
    if not hasattr(model, 'feature_cache'):
        raise UserError(
            'FeatureCacheHook needs a model that labels its images, '
            f'SelfTrainingSegmentor; the config has {type(model).__name__}'
        )
    backbone = model.backbone
    why = ''
    if getattr(backbone, 'adapter', None) is not None:
        why = 'has an adapter, which is trained'
    elif not getattr(backbone, 'frozen', False):
        why = 'is not frozen (frozen=True)'
    elif model.with_neck:
        why = 'has a neck'
    if why:
        raise UserError(
            f'FeatureCacheHook: {type(backbone).__name__} {why}, so that the '
            'features of an image change in training; leave the hook out'
        )


def stored_view(leaf: Dataset, index: int, who: str) -> SegDataSample:
    """Load the clean view of an image, without random numbers.

    Args:
        leaf: Of unlabelled images.
        index: Of the image.
        who: That keeps what is computed of it, for messages.

    Returns:
        With ``clean_img``, (3, H, W) uint8.

    Raises:
        UserError: The view is not the stored image: each time it is another
            one.
    """
    results = leaf.get_data_info(index)
    for step in leaf.pipeline.transforms:
        allowed = (LoadImageFromFile, LoadSegLabels, KeepCleanView)
        if not isinstance(step, allowed):
            raise UserError(
                f'{who} keeps what is computed of images as they are '
                f'stored, but {type(step).__name__} stands before '
                f'KeepCleanView in the pipeline of {type(leaf).__name__} '
                f'(domain {leaf.domain}); leave it out'
            )
        results = step(results)
        if isinstance(step, KeepCleanView):
            break
    planes = torch.from_numpy(results['clean_img'].transpose(2, 0, 1).copy())
    sample = SegDataSample()
    sample.clean_img = PixelData(data=planes)
    return sample


def _plain(cfg):
    """Return a part of a config as JSON text."""
    return json.dumps(cfg, sort_keys=True, default=str)
