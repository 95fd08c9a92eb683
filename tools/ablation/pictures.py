"""Visualizations of predictions and pseudo-labels of the ablation."""

from collections.abc import Sequence
from pathlib import Path

import torch
from mmengine.dataset import pseudo_collate
from mmseg.registry import DATASETS, MODELS

from ablation.schedule import Run, load_trained
from clouds_mmseg.models.segmentors.pseudo_labels import refine_label
from clouds_mmseg.utils.atomic import atomic_path
from clouds_mmseg.utils.visualization import legend, panel, stack

_WIDTH = 256
# Index of a scene with many classes; scenes are the same in all domains.
_TARGET_SCENE = 3
_GENERATED_SCENES = (0, 1, 2, 3)


def draw_visualizations(runs: Sequence[Run], folder: Path) -> list[Path]:
    """Draw ``targets.png`` and ``pseudo_labels.png`` for the first seed.

    Args:
        runs: Finished runs.
        folder: Output folder.

    Returns:
        Paths of the images; the second only if a run used self-training.
    """
    seed = runs[0].seed
    runs = [run for run in runs if run.seed == seed]
    models = [load_trained(run) for run in runs]
    ends = (0, -1) if len(runs) > 1 else (0,)
    sheets = {
        'targets.png': _targets(
            [runs[i] for i in ends], [models[i] for i in ends]
        )
    }
    for run, model in list(zip(runs, models, strict=True))[::-1]:
        hooks = {h['type']: h for h in run.config().custom_hooks}
        if 'SAMRefineHook' in hooks and model.teacher.steps > 0:
            sheets['pseudo_labels.png'] = _pseudo_labels(run, model, hooks)
            break
    paths = []
    for name, sheet in sheets.items():
        paths.append(Path(folder) / name)
        with atomic_path(paths[-1]) as temporary:
            sheet.save(temporary)
    return paths


def _targets(runs, models):
    """Draw a scene of each domain: image, label, prediction of each model."""
    titles = ['image', 'label', *(run.row.title for run in runs)]
    rows = []
    for dataset in runs[0].config().val_dataloader.dataset.datasets:
        dataset = DATASETS.build(dataset)
        sample = dataset[_TARGET_SCENE]
        maps = [sample['data_samples'].gt_sem_seg.data[0]]
        for model in models:
            with torch.no_grad():
                found = model.test_step(pseudo_collate([sample]))
            maps.append(found[0].pred_sem_seg.data[0])
        rows.append(
            panel(
                sample['inputs'].flip(0).permute(1, 2, 0).numpy(),
                [x.numpy() for x in maps],
                dataset.metainfo['palette'],
                width=_WIDTH,
                caption=dataset.domain,
                titles=titles,
            )
        )
    return _with_legend(rows, dataset.metainfo)


def _pseudo_labels(run, model, hooks):
    """Draw generated scenes: image, ground truth, pseudo-label, refined."""
    dataset = DATASETS.build(hooks['PseudoLabelAccuracyHook']['dataset'])
    refiner = MODELS.build(hooks['SAMRefineHook']['refiner'])
    rows = []
    for index in _GENERATED_SCENES:
        sample = dataset[index]['data_samples']
        image = model.clean_rgb(sample)
        labels, confidences = model.pseudo_labels([sample])
        before = labels[0]
        refined = refine_label(refiner, image, before, confidences[0])
        maps = [sample.gt_sem_seg.data[0], before, refined]
        rows.append(
            panel(
                image.permute(1, 2, 0).numpy(),
                [x.numpy() for x in maps],
                dataset.metainfo['palette'],
                width=_WIDTH,
                caption=f'generated scene {index}, {run.row.title}',
                titles=('image', 'truth, unused', 'teacher', 'refined'),
            )
        )
    return _with_legend(rows, dataset.metainfo)


def _with_legend(rows, metainfo):
    key = legend(metainfo['classes'], metainfo['palette'], rows[0].width)
    return stack([*rows, key])
