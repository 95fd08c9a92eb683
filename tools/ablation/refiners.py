"""How right the labels of a model are after each way of refining them."""

from collections.abc import Callable, Sequence
from itertools import islice

import numpy as np
import torch
from mmengine.config import Config
from mmseg.registry import DATASETS, MODELS
from scipy.ndimage import label as connected_components
from torch import Tensor, nn

from ablation.quality import scores_of
from clouds_mmseg.engine.hooks.self_training import LabelScore
from clouds_mmseg.models.segmentors.pseudo_labels import (
    label_from_scores,
    refine_label,
)
from clouds_mmseg.refine.mask_vote import VoteRules, vote_in_segments

_SUPERPIXELS = dict(type='SuperpixelRefiner', purity=0.5)
# Refiners that need no weights; those of a row are applied one after another.
ROWS = {
    'none': [],
    'superpixels, purity 0.9': [dict(type='SuperpixelRefiner')],
    'superpixels, purity 0.5': [_SUPERPIXELS],
    'majority vote in superpixels': [
        dict(type='MajorityVoteRefiner', superpixels=dict())
    ],
    'majority vote in larger superpixels': [
        dict(type='MajorityVoteRefiner', superpixels=dict(scale=100.0))
    ],
    'superpixels, then larger ones': [
        _SUPERPIXELS,
        dict(type='SuperpixelRefiner', purity=0.8, scale=100.0, min_size=30),
    ],
}
# What a refiner could reach that finds every object.
CEILING = 'majority vote in the true objects'
_BATCH = 8


@torch.no_grad()
def measure_refiners(
    model: nn.Module, cfg: Config, num_images: int
) -> dict[str, dict]:
    """Label generated scenes, refine the labels, compare with the truth.

    Args:
        model: A ``SelfTrainingSegmentor``, whose student labels.
        cfg: Its config; the dataset of its ``PseudoLabelAccuracyHook`` has
            the scenes, which are of one size.
        num_images: Number of scenes, the first ones.

    Returns:
        Row -> ``mIoU`` and ``aAcc`` in percent, among others.
    """
    hooks = {hook['type']: hook for hook in cfg.custom_hooks}
    dataset = DATASETS.build(hooks['PseudoLabelAccuracyHook']['dataset'])
    count = min(num_images, len(dataset))
    samples = (dataset[i]['data_samples'] for i in range(count))
    rows: dict[str, Callable] = {
        name: _in_turn([MODELS.build(refiner) for refiner in refiners])
        for name, refiners in ROWS.items()
    }
    classes = dataset.metainfo['classes']
    found = {name: LabelScore(classes) for name in (*rows, CEILING)}
    while batch := list(islice(samples, _BATCH)):
        scores = scores_of(model, batch)
        for sample, label, confidence in zip(
            batch, *label_from_scores(scores), strict=True
        ):
            truth = sample.gt_sem_seg.data[0]
            image = model.clean_rgb(sample)
            for name, refine in rows.items():
                found[name].add(refine(image, label, confidence), truth)
            found[CEILING].add(_vote_in_objects(label, truth), truth)
    return {name: score.report() for name, score in found.items()}


def _in_turn(refiners: Sequence) -> Callable:
    def refine(image, label, confidence):
        for refiner in refiners:
            label = refine_label(refiner, image, label, confidence)
        return label

    return refine


def _vote_in_objects(label: Tensor, truth: Tensor) -> Tensor:
    """Vote in the connected regions of each class of the true label."""
    objects = np.zeros(truth.shape, int)
    for class_index in truth.unique().tolist():
        regions, _ = connected_components(truth.numpy() == class_index)
        objects[regions > 0] = regions[regions > 0] + objects.max()
    voted = vote_in_segments(label.numpy(), objects, VoteRules())
    return torch.from_numpy(voted)
