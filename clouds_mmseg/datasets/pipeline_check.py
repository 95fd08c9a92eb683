"""Settings of a dataset that a step of its pipeline must carry out."""

import logging
from collections.abc import Iterator
from typing import Any

import numpy as np
from mmcv.transforms import LoadAnnotations, LoadImageFromFile
from mmengine.logging import print_log

from clouds_mmseg.datasets.labels import UNDEFINED
from clouds_mmseg.datasets.transforms.loading import (
    LoadSegImage,
    LoadSegLabels,
)
from clouds_mmseg.utils.cityscapes import IGNORE
from clouds_mmseg.utils.errors import UserError


def steps_of(pipeline: Any) -> Iterator[Any]:
    """Yield the steps of a pipeline, and those inside of steps.

    Args:
        pipeline: A step, a list of steps or a ``Compose``.
    """
    if isinstance(pipeline, (list, tuple)):
        for step in pipeline:
            yield from steps_of(step)
        return
    yield pipeline
    # RandomApply, RandomChoice, TransformBroadcaster; TestTimeAug.
    for name in ('transforms', 'subroutines'):
        yield from steps_of(list(getattr(pipeline, name, None) or []))


def check_pipeline(dataset: Any) -> None:
    """Refuse a pipeline that would leave settings of its dataset undone.

    Args:
        dataset: With its pipeline built.

    Raises:
        UserError: Labels are read by a step that does not know what their
            ids mean, or that fails where there are none.
    """
    steps = list(steps_of(dataset.pipeline))
    who = f'{type(dataset).__name__} (domain {dataset.domain})'
    for step in steps:
        # LoadSegLabels lets images without labels pass: a test predicts them.
        if isinstance(step, LoadSegLabels) or not isinstance(
            step, LoadAnnotations
        ):
            continue
        if not dataset.has_labels:
            raise UserError(
                f'{who}: its pipeline reads labels by {type(step).__name__}, '
                'and the dataset has none: give '
                "data_prefix=dict(img_path=..., seg_map_path='...'), or leave "
                'the step out'
            )
        lost = _lost_settings(dataset, step)
        if lost:
            raise UserError(
                f'{who}: its pipeline reads labels by {type(step).__name__}, '
                f'which takes the ids in the files as they are: {lost} would '
                "not be applied. Put dict(type='LoadSegLabels') in its place"
            )
    if any(
        isinstance(step, LoadImageFromFile)
        and not isinstance(step, (LoadSegImage, LoadAnnotations))
        for step in steps
    ):
        print_log(
            f'{who}: its pipeline reads images by LoadImageFromFile, which '
            'does not notice a file that breaks off; '
            "dict(type='LoadSegImage') does",
            logger='current',
            level=logging.WARNING,
        )


def _lost_settings(dataset: Any, step: LoadAnnotations) -> str:
    """Name what mmseg's reading of labels would leave undone."""
    if getattr(step, 'reduce_zero_label', None):
        return 'the table of ids (and reduce_zero_label=True shifts it)'
    if dataset.LABEL_CHANNEL is not None:
        return 'label_channel'
    table = dataset.class_table()
    number = len(dataset.metainfo['classes'])
    same = np.arange(256)
    same[number:IGNORE] = UNDEFINED
    wrong = np.flatnonzero(table != same)
    if not len(wrong):
        return ''
    # An id that is undefined becomes an error with LoadSegLabels only.
    first = int(wrong[0])
    return (
        'its table of ids (names, label_map, ids, ignored; for example the '
        f'id {first}, which means {_meaning(dataset, int(table[first]))})'
    )


def _meaning(dataset: Any, index: int) -> str:
    if index == IGNORE:
        return '"ignored"'
    if index == UNDEFINED:
        return 'nothing'
    return repr(dataset.metainfo['classes'][index])
