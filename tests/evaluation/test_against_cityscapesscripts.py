"""The metric's IoU equals that of Cityscapes' own evaluation."""

import numpy as np
import pytest
import torch
from mmengine.registry import init_default_scope
from PIL import Image

from clouds_mmseg.datasets import CityscapesDGDataset, GTA5Dataset
from clouds_mmseg.evaluation import DGIoUMetric

official = pytest.importorskip(
    'cityscapesscripts.evaluation.evalPixelLevelSemanticLabeling'
)

SHAPE = (65, 130)
IMAGES = 4
PIPELINE = [dict(type='LoadSegLabels'), dict(type='PackDGInputs')]


def blocks(rng, values):
    """Blocks of values, as regions are in a real label map."""
    coarse = rng.choice(values, (13, 26))
    return coarse.repeat(5, 0).repeat(5, 1).astype(np.uint8)


@pytest.fixture
def trees(tmp_path):
    """Labels and predictions on disk, as label ids and as train ids.

    Class 'train' occurs nowhere, 'truck' is predicted but never labelled,
    'wall' is labelled but never predicted, and predictions fall on ignored
    pixels.
    """
    init_default_scope('mmseg')
    labels = official.labels
    train_id = {
        item.id: item.trainId if 0 <= item.trainId < 19 else 255
        for item in labels
        if item.id >= 0
    }
    by_name = {item.name: item.id for item in labels}
    evaluated = [i for i, t in train_id.items() if t != 255]
    absent = {by_name['train']}
    gt_ids = [i for i in train_id if i not in absent | {by_name['truck']}]
    predicted_ids = [
        i for i in evaluated if i not in absent | {by_name['wall']}
    ]
    rng = np.random.default_rng(0)
    to_train = np.vectorize(train_id.get, otypes=[np.uint8])
    predictions = {}
    for number in range(IMAGES):
        gt = blocks(rng, gt_ids)
        prediction = gt.copy()
        wrong = rng.random(SHAPE) < 0.3
        wrong |= ~np.isin(gt, predicted_ids)
        prediction[wrong] = blocks(rng, predicted_ids)[wrong]
        stem = f'bonn_{number:06d}_000019'
        city = tmp_path / 'cs/gtFine/val/bonn'
        for path, data in (
            (city / f'{stem}_gtFine_labelIds.png', gt),
            (city / f'{stem}_gtFine_labelTrainIds.png', to_train(gt)),
            (tmp_path / f'predictions/{stem}.png', prediction),
            (tmp_path / f'gta5/labels/{stem}.png', gt),
            (tmp_path / f'gta5/images/{stem}.png', gt),
            (
                tmp_path / f'cs/leftImg8bit/val/bonn/{stem}_leftImg8bit.png',
                gt,
            ),
        ):
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(data).save(path)
        predictions[stem] = to_train(prediction)
    return tmp_path, predictions


@pytest.fixture
def theirs(trees, monkeypatch):
    root, predictions = trees
    args = official.args
    monkeypatch.setattr(args, 'evalInstLevelScore', False)
    monkeypatch.setattr(args, 'evalPixelAccuracy', False)
    matrix = official.generateMatrix(args)
    for stem in predictions:
        official.evaluatePair(
            str(root / f'predictions/{stem}.png'),
            str(root / f'cs/gtFine/val/bonn/{stem}_gtFine_labelIds.png'),
            matrix,
            {},
            {},
            args,
        )
    scores = {
        item.name: official.getIouScoreForLabel(item.id, matrix, args)
        for item in official.labels
        if item.id >= 0 and not item.ignoreInEval
    }
    return scores, official.getScoreAverage(scores, args)


@pytest.mark.parametrize('reader', ['train ids', 'label ids'])
def test_same_files_same_iou(trees, theirs, reader):
    root, predictions = trees
    if reader == 'train ids':
        dataset = CityscapesDGDataset(
            data_root=str(root / 'cs'), pipeline=PIPELINE
        )
    else:
        dataset = GTA5Dataset(data_root=str(root / 'gta5'), pipeline=PIPELINE)
    assert len(dataset) == IMAGES
    metric = DGIoUMetric(domains=[dataset.domain])
    metric.dataset_meta = dataset.metainfo
    for item in dataset:
        sample = item['data_samples'].to_dict()
        stem = '_'.join(
            sample['img_path'].split('/')[-1].split('.')[0].split('_')[:3]
        )
        sample['pred_sem_seg'] = dict(
            data=torch.from_numpy(predictions[stem])[None].long()
        )
        metric.process({}, [sample])
    values = metric.evaluate(IMAGES)
    scores, average = theirs
    assert len(scores) == 19
    for name, score in scores.items():
        ours = values[f'{dataset.domain}/IoU.{name}']
        np.testing.assert_allclose(ours / 100, score, rtol=0, atol=1e-6)
    assert np.isnan(scores['train']) and scores['truck'] == 0
    assert scores['wall'] == 0 and scores['road'] > 0.3
    assert values[f'{dataset.domain}/mIoU'] / 100 == pytest.approx(
        average, abs=1e-6
    )
