"""Concatenation of datasets, with a pipeline for single images."""

from collections.abc import Sequence
from typing import Any

from mmengine.dataset import BaseDataset
from mmengine.dataset import ConcatDataset as _ConcatDataset
from mmseg.registry import DATASETS

from clouds_mmseg.utils.errors import UserError

# Steps that need the fields of a dataset's sample.
_DATASET_STEPS = ('LoadSegLabels', 'LoadAnnotations', 'PackDGInputs')


@DATASETS.register_module(name='ConcatDataset')
class DGConcatDataset(_ConcatDataset):
    """mmengine's ``ConcatDataset``, with the pipeline of a single image.

    MMSegmentation's ``MMSegInferencer`` looks it up at
    ``test_dataloader.dataset.pipeline``, where a concatenation has none.

    Args:
        datasets: Each reads its samples with its own pipeline.
        pipeline: For images that do not belong to a dataset: begins with
            ``LoadImageFromFile`` and reads no labels. The datasets do not use
            it.
        **kwargs: As for mmengine's ``ConcatDataset``.

    Raises:
        UserError: ``pipeline`` has a step that needs a dataset: it was meant
            for the datasets.
    """

    def __init__(
        self,
        datasets: Sequence[dict | BaseDataset] = (),
        pipeline: Sequence[dict] | None = None,
        **kwargs: Any,
    ):
        wrong = [
            step['type']
            for step in pipeline or ()
            if step['type'] in _DATASET_STEPS
        ]
        if wrong:
            raise UserError(
                f'pipeline of a ConcatDataset has {wrong[0]}, but it is for '
                'single images without labels and no dataset uses it; give '
                'the pipeline to each of its datasets'
            )
        if not datasets:
            raise UserError(
                'a ConcatDataset of the config has no datasets; give '
                'datasets=[dict(type=...), ...]'
            )
        super().__init__(datasets, **kwargs)
