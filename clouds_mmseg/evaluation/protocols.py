"""Evaluation protocols: resizing and inference mode of the test images.

- ``clouds``: the whole image at once, resized to a short edge of 1024.
  BDD100K, Mapillary and ACDC are compared at the resized size, all others at
  the size of the label. This is the evaluation of the official CLOUDS code.
- ``native``: the whole image at its own size.
- ``slide``: windows of 768x768 with a stride of 512 over the image at its own
  size.
"""

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
)
_PROTOCOL_STEPS = ('Resize', 'ResizeShortestEdge', 'EvaluateAtInputSize')
_METRICS = ('DGIoUMetric', 'CorruptionMetric')
_LABEL_STEPS = ('LoadSegLabels', 'LoadAnnotations')


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
    if name not in PROTOCOLS:
        raise UserError(
            f'unknown evaluation protocol {name!r}; there are: '
            + ', '.join(PROTOCOLS)
        )
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
        )


def rewrite_pipeline(
    pipeline: list[dict], name: str, *, at_input_size: bool
) -> list[dict]:
    """Rewrite a test pipeline for a protocol.

    Args:
        pipeline: Begins with the step that loads the image. Steps that belong
            to no protocol are kept, after loading and resizing.
        name: A key of :data:`PROTOCOLS`.
        at_input_size: Compare at the resized size under ``clouds``.

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
