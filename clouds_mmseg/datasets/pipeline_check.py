"""Check that a pipeline applies the settings of its dataset."""

import logging
from collections.abc import Iterator
from typing import Any

import numpy as np
from mmcv.transforms import LoadAnnotations, LoadImageFromFile
from mmengine.dataset import BaseDataset
from mmengine.logging import print_log

from clouds_mmseg.datasets.labels import UNDEFINED
from clouds_mmseg.datasets.transforms.loading import (
    LoadSegImage,
    LoadSegLabels,
)
from clouds_mmseg.utils.cityscapes import IGNORE
from clouds_mmseg.utils.errors import UserError


def steps_of(pipeline: Any) -> Iterator[Any]:
    """Yield the steps of a pipeline, nested ones included.

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


def check_pipeline(dataset: BaseDataset) -> None:
    """Refuse a pipeline that would ignore settings of its dataset.

    Args:
        dataset: With its pipeline built.

    Raises:
        UserError: Labels are read by a step that does not apply the label
            table, or that fails without label files.
    """
    steps = list(steps_of(dataset.pipeline))
    who = f'{type(dataset).__name__} (domain {dataset.domain})'
    for step in steps:
        # LoadSegLabels accepts samples without label: a test predicts them.
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


def _lost_settings(dataset: BaseDataset, step: LoadAnnotations) -> str:
    """Name the settings that mmseg's reading of labels would ignore."""
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
    # Only LoadSegLabels makes an undefined id an error.
    first = int(wrong[0])
    return (
        'its table of ids (names, label_map, ids, ignored; for example the '
        f'id {first}, which means {_meaning(dataset, int(table[first]))})'
    )


def _meaning(dataset: BaseDataset, index: int) -> str:
    if index == IGNORE:
        return '"ignored"'
    if index == UNDEFINED:
        return 'nothing'
    return repr(dataset.metainfo['classes'][index])
