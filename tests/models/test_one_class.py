"""One class: what is not it, is nothing."""

import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample
from test_segmentor_labels import CLOUDS, FCN, batch, build, predict

from clouds_mmseg.evaluation import DGIoUMetric
from clouds_mmseg.evaluation.dg_iou_metric import confusion_with_background
from clouds_mmseg.models.mask2former.inference import label_of_scores
from clouds_mmseg.models.segmentors.pseudo_labels import label_from_scores
from clouds_mmseg.models.segmentors.self_training_segmentor import (
    SelfTrainingSegmentor,
)
from clouds_mmseg.utils.errors import UserError


@pytest.fixture(scope='module')
def model():
    torch.manual_seed(0)
    found = build(
        dict(CLOUDS, num_classes=1, threshold=0.4),
        size_divisor=32,
        test_cfg=dict(size_divisor=32),
    )
    with torch.no_grad():
        found.decode_head.mask_embed[-1].weight *= 300
    return found


@pytest.mark.parametrize('keep', [True, False])
@pytest.mark.parametrize('size', [(64, 96), (100, 140)])
def test_a_threshold_decides(model, keep, size):
    def data():
        found = batch((64, 96))
        found['data_samples'][0].set_metainfo(dict(ori_shape=size))
        return found

    (scored,) = predict(model, True, data())
    scores = scored.seg_logits.data
    expected = torch.where(scores > 0.4, 0, 255)
    assert scores.shape == (1, *size)
    assert set(expected.unique().tolist()) == {0, 255}
    (result,) = predict(model, keep, data())
    assert torch.equal(result.pred_sem_seg.data, expected)
    assert result.pred_sem_seg.data.dtype == torch.int64


def test_slide(model):
    slide = dict(mode='slide', crop_size=(64, 64), stride=(32, 48))
    (scored,) = predict(model, True, batch((100, 120)), **slide)
    (result,) = predict(model, False, batch((100, 120)), **slide)
    expected = torch.where(scored.seg_logits.data > 0.4, 0, 255)
    assert torch.equal(result.pred_sem_seg.data, expected)


def test_it_trains_and_counts_what_is_not_it(model):
    data = batch((64, 64), (64, 64))
    for sample in data['data_samples']:
        label = torch.full((1, 64, 64), 255)
        label[:, :20] = 0
        sample.gt_sem_seg = PixelData(data=label)
    # An image that does not show it.
    data['data_samples'][1].gt_sem_seg.data[:] = 255
    model.test_cfg = ConfigDict(mode='whole')
    losses = model(**model.data_preprocessor(data, training=True), mode='loss')
    assert all(torch.isfinite(value) for value in losses.values())


def test_two_classes_with_one_output():
    model = build(
        dict(FCN, num_classes=2, out_channels=1, threshold=0.3),
        test_cfg=dict(size_divisor=32),
    )
    with torch.no_grad():
        model.decode_head.conv_seg.weight.normal_()
    for shape in ((64, 96), (100, 140)):
        found = []
        for keep in (True, False):
            data = batch((64, 96))
            data['data_samples'][0].set_metainfo(dict(ori_shape=shape))
            found.append(predict(model, keep, data)[0].pred_sem_seg.data)
        assert set(found[0].unique().tolist()) <= {0, 1}
        assert torch.equal(found[0].long(), found[1])


def test_pseudo_labels_are_not_the_class_everywhere():
    scores = torch.tensor([[[[0.0, 0.3, 0.45, 0.9, 1.7]]]])
    label, confidence = label_from_scores(scores, class_threshold=0.4)
    assert label.tolist() == [[[255, 255, 0, 0, 0]]]
    torch.testing.assert_close(
        confidence, torch.tensor([[[1.0, 0.7, 0.45, 0.9, 1.0]]])
    )
    label, _ = label_from_scores(scores, 0.5, class_threshold=0.4)
    assert label.tolist() == [[[255, 255, 255, 0, 0]]]
    assert label_of_scores(scores[0], 0.4).tolist() == [[255, 255, 0, 0, 0]]


def sample(label, prediction):
    found = SegDataSample(metainfo=dict(domain='x', img_path='a.png'))
    found.gt_sem_seg = PixelData(data=torch.tensor(label)[None])
    found.pred_sem_seg = PixelData(data=torch.tensor(prediction)[None])
    return found.to_dict()


def test_the_background_counts():
    label = [[0, 0, 255, 255, 255, 255]]
    everywhere = [[0] * 6]
    half = [[0, 255, 0, 255, 255, 255]]
    values, accuracies = [], []
    for prediction in (everywhere, half, label):
        metric = DGIoUMetric()
        metric.dataset_meta = dict(classes=('fg',))
        metric.process({}, [sample(label, prediction)])
        found = metric.evaluate(1)
        values.append(found['x/IoU.fg'])
        assert found['x/mIoU'] == found['x/IoU.fg'] == found['mean_mIoU']
        accuracies.append(found['x/aAcc'])
    assert values == pytest.approx([100 * 2 / 6, 100 / 3, 100])
    assert accuracies == pytest.approx([100 * 2 / 6, 100 * 4 / 6, 100])
    table = confusion_with_background(torch.tensor(half), torch.tensor(label))
    assert table.tolist() == [[1, 1], [1, 3]]
    assert metric.last_results['domains']['x']['confusion'] == [[2, 0], [0, 4]]


def test_self_training_needs_a_score_of_each_class():
    head = dict(FCN, num_classes=2, out_channels=1)
    with pytest.raises(UserError, match='one output for 2 classes'):
        SelfTrainingSegmentor(
            backbone=dict(
                type='FrozenTIMMBackbone',
                model_name='test_resnet',
                weights=None,
            ),
            decode_head=dict(head, type='mmseg.FCNHead'),
        )
