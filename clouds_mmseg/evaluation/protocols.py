"""Evaluation protocols: resizing and inference mode of the test images.

- ``clouds``: the whole image at once, resized to a short edge of 1024.
  BDD100K, Mapillary and ACDC are compared at the resized size, all others at
  the size of the label. This is the evaluation of the official CLOUDS code.
- ``native``: the whole image at its own size.
- ``slide``: windows of 768x768 with a stride of 512 over the image at its own
  size.
- ``rein``: the image inside of 1024x512 (BDD100K 1280x720, ACDC 960x540),
  windows of 512x512 with a stride of 341. Images and labels of Mapillary are
  halved before. This is the evaluation of Rein's models of 512 pixels.
- ``soma``: as ``rein`` inside of 2048x1024 (BDD100K 1280x720, ACDC
  1920x1080), as SoMA evaluates. tqdm's size of Cityscapes is the same.

Sources: ``configs/_base_/datasets`` of w1oves/Rein 7da85bc and
ysj9909/SoMA 7ea8c0e, and ``tools/convert_datasets/mapillary_resize.py`` there,
which writes the halved images as JPEG files.
"""

from collections.abc import Sequence
from copy import deepcopy

from mmengine.config import Config, ConfigDict
from mmseg.registry import DATASETS

from clouds_mmseg.utils.errors import UserError

SHORT_EDGE = 1024
# No image of the benchmarks is more than four times as long as high.
_LONG_EDGE = 4096
_WHOLE_IMAGE = dict(mode='whole')
PROTOCOLS: dict[str, dict] = dict(
    clouds=_WHOLE_IMAGE,
    native=_WHOLE_IMAGE,
    slide=dict(mode='slide', crop_size=(768, 768), stride=(512, 512)),
    rein=dict(mode='slide', crop_size=(512, 512), stride=(341, 341)),
    soma=dict(mode='slide', crop_size=(512, 512), stride=(341, 341)),
)
# Width and height that an image is resized into; by class of the data set
# where they are not the protocol's.
_SCALES: dict[str, dict[str | None, tuple[int, int]]] = dict(
    rein={
        None: (1024, 512),
        'BDD100KDGDataset': (1280, 720),
        'ACDCDataset': (960, 540),
    },
    soma={
        None: (2048, 1024),
        'BDD100KDGDataset': (1280, 720),
        'ACDCDataset': (1920, 1080),
    },
)
# Sets whose images and labels both protocols halve before.
_HALVED = ('MapillaryDGDataset',)
_PROTOCOL_STEPS = (
    'Resize',
    'ResizeShortestEdge',
    'EvaluateAtInputSize',
    'HalveImage',
    'HalveLabels',
)
_METRICS = ('DGIoUMetric', 'CorruptionMetric')
_LABEL_STEPS = ('LoadSegLabels', 'LoadAnnotations')


def check_protocols(names: Sequence[str]) -> None:
    """Refuse names of protocols that do not exist, or stand twice.

    Raises:
        UserError: Lists the protocols that there are.
    """
    for name in names:
        if name not in PROTOCOLS:
            raise UserError(
                f'unknown evaluation protocol {name!r}; there are: '
                + ', '.join(PROTOCOLS)
            )
    if len(set(names)) < len(names):
        raise UserError(
            f'a protocol is named twice: {" ".join(names)}; name each once'
        )


def describe_protocol(name: str) -> dict[str, str]:
    """Describe what a protocol does, for tables.

    Returns:
        ``input`` (size of the image), ``windows`` and ``labels`` (size at
        which prediction and label are compared).
    """
    inference = PROTOCOLS[name]
    windows = 'whole image'
    if inference['mode'] == 'slide':
        side, stride = inference['crop_size'][0], inference['stride'][0]
        windows = f'{side}x{side} every {stride}'
    if name == 'clouds':
        size = f'short edge {SHORT_EDGE}'
        labels = 'as published; BDD100K, Mapillary, ACDC at input size'
    elif name in _SCALES:
        sizes = {
            key: f'{width}x{height}'
            for key, (width, height) in _SCALES[name].items()
        }
        size = (
            f'{sizes[None]}, BDD100K {sizes["BDD100KDGDataset"]}, ACDC '
            f'{sizes["ACDCDataset"]}'
        )
        labels = 'as published; Mapillary halved'
    else:
        size, labels = 'as published', 'as published'
    return dict(input=size, windows=windows, labels=labels)


def apply_protocol(cfg: Config, name: str) -> Config:
    """Rewrite a config for an evaluation protocol.

    Changes the pipelines of the datasets of ``val_dataloader`` and
    ``test_dataloader``, ``model.test_cfg`` and the ``protocol`` of
    ``DGIoUMetric`` and ``CorruptionMetric`` in ``val_evaluator`` and
    ``test_evaluator``.

    Args:
        cfg: Changed in place.
        name: A key of :data:`PROTOCOLS`.

    Returns:
        ``cfg`` itself.

    Raises:
        UserError: There is no such protocol, or a test pipeline does not begin
            with loading an image.
    """
    check_protocols([name])
    for split in ('val', 'test'):
        loader = cfg.get(f'{split}_dataloader')
        if loader:
            _rewrite_dataset(loader['dataset'], name)
        evaluators = cfg.get(f'{split}_evaluator') or []
        if not isinstance(evaluators, (list, tuple)):
            evaluators = [evaluators]
        for evaluator in evaluators:
            if evaluator.get('type') in _METRICS:
                evaluator['protocol'] = name
    if cfg.get('model'):
        kept = {
            key: value
            for key, value in (cfg.model.get('test_cfg') or {}).items()
            if key not in ('mode', 'crop_size', 'stride')
        }
        cfg.model.test_cfg = ConfigDict(kept | PROTOCOLS[name])
    return cfg


def _rewrite_dataset(dataset, name):
    """Rewrite the pipelines of a dataset config, nested ones included."""
    for child in dataset.get('datasets') or []:
        _rewrite_dataset(child, name)
    if dataset.get('dataset'):
        _rewrite_dataset(dataset['dataset'], name)
    if dataset.get('pipeline'):
        kind = DATASETS.get(dataset['type'])
        dataset['pipeline'] = rewrite_pipeline(
            dataset['pipeline'],
            name,
            at_input_size=getattr(kind, 'COMPARED_AT_INPUT_SIZE', False),
            kinds=[c.__name__ for c in getattr(kind, '__mro__', ())],
        )


def rewrite_pipeline(
    pipeline: list[dict],
    name: str,
    *,
    at_input_size: bool,
    kinds: Sequence[str] = (),
) -> list[dict]:
    """Rewrite a test pipeline for a protocol.

    Args:
        pipeline: Begins with the step that loads the image. Steps that belong
            to no protocol are kept, after loading and resizing.
        name: A key of :data:`PROTOCOLS`.
        at_input_size: Compare at the resized size under ``clouds``.
        kinds: Class of the data set and its base classes, which tell the
            sizes of ``rein`` and ``soma``.

    Returns:
        A new list.

    Raises:
        UserError: The pipeline does not begin with loading an image.
    """
    steps = [deepcopy(step) for step in pipeline]
    first = steps[0]['type'] if steps else None
    if not first or not first.startswith('Load'):
        raise UserError(
            f'protocol {name!r} cannot be applied to a test pipeline that '
            f'begins with {first!r}: the first step must load the image'
        )
    image, *steps = [s for s in steps if s['type'] not in _PROTOCOL_STEPS]
    labels = [s for s in steps if s['type'] in _LABEL_STEPS]
    rest = [s for s in steps if s['type'] not in _LABEL_STEPS]
    if name in _SCALES:
        scales = _SCALES[name]
        kind = next((kind for kind in kinds if kind in scales), None)
        # OpenCV's bilinear, without filtering, as mmcv does by default.
        shrink = dict(type='Resize', scale=scales[kind], keep_ratio=True)
        if any(kind in _HALVED for kind in kinds):
            halve = dict(type='HalveLabels')
            more = [halve] if labels else []
            first_half = dict(type='HalveImage')
            return [image, first_half, shrink, *labels, *more, *rest]
        return [image, shrink, *labels, *rest]
    if name != 'clouds':
        return [image, *labels, *rest]
    # Pillow filters when downscaling, like the official evaluation.
    resize = dict(
        type='Resize',
        scale=(_LONG_EDGE, SHORT_EDGE),
        keep_ratio=True,
        backend='pillow',
    )
    if at_input_size:
        # The labels come first so that they are resized with the image.
        return [
            image,
            *labels,
            resize,
            dict(type='EvaluateAtInputSize'),
            *rest,
        ]
    return [image, resize, *labels, *rest]
