"""Measures of a model that need no target, and how well they rank the rows.

In domain generalisation nobody may look at a target. A user can look at these
numbers instead, of the same model that is tested on the targets:

- ``expected_iou``: of its labels of generated scenes, mean over the classes,
- ``view_agreement``: share of their pixels that have the same label in the
  mirrored scene,
- ``confidence``: mean over their pixels,
- ``restyled``: mIoU on a held-out part of the source, restyled,
- ``source``: mIoU on that part as it is.

All are in percent.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from statistics import mean

import torch
from mmseg.registry import DATASETS
from scipy.stats import spearmanr
from torch import Tensor, nn

from ablation.rows import ROWS, Row
from ablation.schedule import Run, load_trained
from clouds_mmseg.models.segmentors.pseudo_labels import (
    PseudoLabelStatistics,
    as_scores,
    expected_iou,
    label_from_scores,
)
from clouds_mmseg.utils.atomic import atomic_path
from clouds_mmseg.utils.tables import format_table

FILE_NAME = 'quality.json'
MEASURES = dict(
    restyled='mIoU on held-out source images, restyled',
    expected_iou='expected IoU on generated scenes',
    view_agreement='agreement of two views of generated scenes',
    confidence='confidence on generated scenes',
    source='mIoU on held-out source images',
)
_NUM_SCENES = 64
_BATCH = 8
# Fewer rows have too few orders.
FEWEST_ROWS = 4


def measure_quality(run: Run) -> dict[str, float]:
    """Measure the last checkpoint of a finished run on generated scenes.

    Args:
        run: Finished. ``quality.json`` in its folder keeps the result.

    Returns:
        ``expected_iou``, ``view_agreement`` and ``confidence``.
    """
    path = run.folder / FILE_NAME
    if path.is_file():
        return json.loads(path.read_text())
    print(f'{run}: its labels of generated scenes are measured', flush=True)
    model = load_trained(run)
    hooks = {hook['type']: hook for hook in run.config().custom_hooks}
    dataset = DATASETS.build(hooks['PseudoLabelAccuracyHook']['dataset'])
    samples = (dataset[i]['data_samples'] for i in range(len(dataset)))
    found = label_quality(model, islice(samples, _NUM_SCENES))
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(found) + '\n')
    return found


@torch.no_grad()
def label_quality(model: nn.Module, samples: Iterable) -> dict[str, float]:
    """Measure the labels of a model without knowing the true ones.

    Args:
        model: A ``SelfTrainingSegmentor``, whose student is measured.
        samples: Data samples with ``clean_img``, all of one size.

    Returns:
        ``expected_iou``, ``view_agreement`` and ``confidence``, in percent.
    """
    statistics = PseudoLabelStatistics(model.num_classes)
    samples = iter(samples)
    while batch := list(islice(samples, _BATCH)):
        scores = scores_of(model, batch)
        labels, confidences = label_from_scores(scores)
        mirrored, _ = label_from_scores(scores_of(model, batch, mirrored=True))
        for score, label, confidence, other in zip(
            scores, labels, confidences, mirrored, strict=True
        ):
            iou = expected_iou(score, label)
            statistics.update(label, label, confidence, iou)
            statistics.update_views(label, other)
    found = statistics.pop()
    names = ('expected_iou', 'view_agreement', 'confidence')
    return {name: 100 * found[name] for name in names}


def scores_of(
    model: nn.Module, samples: Sequence, *, mirrored: bool = False
) -> Tensor:
    """Return scores (N, K, H, W) of clean views or their mirror images."""
    size = samples[0].clean_img.data.shape[-2:]
    clean = model.data_preprocessor.clean_views(samples, size)
    metas = [dict(ori_shape=size, img_shape=size) for _ in samples]
    inputs = clean.flip(-1) if mirrored else clean
    features = model.extract_feat(inputs)
    found = model.decode_head.predict(features, metas, model.test_cfg)
    scores = as_scores(model.decode_head, found)
    return scores.flip(-1) if mirrored else scores


def ranks_table(data: Mapping) -> str:
    """Tabulate the rank correlation of each measure with the targets' mean.

    Args:
        data: Results of a schedule, see :mod:`ablation.report`.

    Returns:
        Markdown: Spearman's correlation over the rows, its mean over the
        seeds; empty if no seed has enough rows.
    """
    groups = {
        'all rows': ROWS,
        'without restyling': [r for r in ROWS if not r.is_restyled],
        'with restyling': [r for r in ROWS if r.is_restyled],
    }
    lines = []
    for measure, title in MEASURES.items():
        cells = [_mean_rank(data, measure, rows) for rows in groups.values()]
        if any(cell != '-' for cell in cells):
            lines.append([title, *cells])
    if not lines:
        return ''
    return format_table(['measure', *groups], lines, markdown=True)


def _mean_rank(data: Mapping, measure: str, rows: Sequence[Row]) -> str:
    """Format the mean correlation over the seeds, and what it is taken of."""
    correlations, counts = [], []
    for seed in sorted(_seeds(data), key=int):
        pairs = [
            (value, data['rows'][row.name][seed])
            for row in rows
            if (value := _value(data, measure, row.name, seed)) is not None
        ]
        if len(pairs) >= FEWEST_ROWS:
            ranked = spearmanr(
                [value for value, _ in pairs], [goal for _, goal in pairs]
            )
            correlations.append(float(ranked.statistic))
            counts.append(len(pairs))
    if not correlations:
        return '-'
    rows_text = f'{min(counts)}'
    if max(counts) > min(counts):
        rows_text += f' to {max(counts)}'
    return f'{mean(correlations):+.2f} ({len(counts)} seeds, {rows_text} rows)'


def _seeds(data):
    return {seed for seeds in data['rows'].values() for seed in seeds}


def _value(data, measure, row, seed):
    """Return a measure of a run that has results, or None."""
    if seed not in data['rows'].get(row, {}):
        return None
    if measure in ('restyled', 'source'):
        return data.get(measure, {}).get(row, {}).get(seed)
    found = data.get('quality', {}).get(row, {}).get(seed, {})
    return found.get(measure)
