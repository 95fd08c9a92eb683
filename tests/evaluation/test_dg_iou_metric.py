"""Values, groups, tables and errors of the metric."""

import json
import logging
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mmengine.logging import MMLogger
from mmseg.evaluation import IoUMetric
from mmseg.registry import METRICS
from PIL import Image

from clouds_mmseg.evaluation import DGIoUMetric
from clouds_mmseg.evaluation.dg_iou_metric import (
    confusion_matrix,
    image_scores,
)
from clouds_mmseg.utils.errors import UserError
from clouds_mmseg.utils.result_warnings import (
    forget_result_warnings,
    result_warnings,
)

META = dict(classes=('road', 'car', 'sky'))


@pytest.fixture
def log(caplog):
    forget_result_warnings(result_warnings())
    logger = MMLogger.get_current_instance()
    logger.addHandler(caplog.handler)
    caplog.set_level(logging.INFO, logger=logger.name)
    yield lambda: '\n'.join(r.getMessage() for r in caplog.records)
    logger.removeHandler(caplog.handler)


def evaluate(batch, meta=META, **kwargs):
    metric = DGIoUMetric(**kwargs)
    metric.dataset_meta = meta
    metric.process({}, batch)
    return metric.evaluate(len(batch)), metric


@pytest.fixture
def batch(samples):
    """Two images of fog and one of night, counted by hand below."""
    return samples(
        [
            ('fog', [[0, 0, 1]], [[0, 1, 1]]),
            ('night', [[0, 0, 0]], [[0, 0, 255]]),
            ('fog', [[1, 1, 0]], [[0, 255, 0]]),
        ]
    )


def test_by_hand(batch):
    values, metric = evaluate(batch)
    # fog: road 2 hits, 1 false, 1 missed; car 1 hit, 1 false, 1 missed.
    assert values['fog/IoU.road'] == pytest.approx(50)
    assert values['fog/IoU.car'] == pytest.approx(100 / 3)
    assert math.isnan(values['fog/IoU.sky'])
    assert values['fog/mIoU'] == pytest.approx((50 + 100 / 3) / 2)
    assert values['fog/aAcc'] == pytest.approx(60)
    assert values['fog/mAcc'] == pytest.approx((200 / 3 + 50) / 2)
    assert values['night/mIoU'] == values['night/aAcc'] == 100
    # Each domain counts once, not each image.
    assert values['mean_mIoU'] == pytest.approx(((50 + 100 / 3) / 2 + 100) / 2)
    assert values['mean_aAcc'] == pytest.approx(80)
    fog = metric.last_results['domains']['fog']
    assert fog['confusion'] == [[2, 1, 0], [1, 1, 0], [0, 0, 0]]
    assert fog['images'] == 2
    assert fog['class_iou']['sky'] is None


def test_predicted_but_never_labelled_counts_as_zero(samples):
    values, _ = evaluate(samples([('fog', [[0, 2]], [[0, 0]])]))
    assert values['fog/IoU.sky'] == 0
    assert values['fog/mIoU'] == pytest.approx(25)


def test_prediction_on_ignored_pixels_does_not_count(samples):
    values, _ = evaluate(samples([('fog', [[0, 2]], [[0, 255]])]))
    assert math.isnan(values['fog/IoU.sky'])
    assert values['fog/mIoU'] == 100


def test_nothing_labelled_is_no_number(samples):
    values, _ = evaluate(samples([('fog', [[0, 2]], [[255, 255]])]))
    assert math.isnan(values['fog/mIoU'])
    assert math.isnan(values['mean_mIoU'])


def test_source_is_reported_but_not_in_the_mean(batch, log):
    values, metric = evaluate(batch, source_domains=['night'])
    assert values['night/mIoU'] == 100
    assert values['mean_mIoU'] == values['fog/mIoU']
    assert metric.last_results['mean']['mIoU'] == values['fog/mIoU']
    assert 'night (source)' in log()
    values, _ = evaluate(batch, source_domains=['night', 'fog'])
    assert not [key for key in values if key.startswith('mean')]


def test_subsets_of_classes(batch):
    values, _ = evaluate(batch, class_subsets={'16': ['road', 'sky']})
    assert values['fog/mIoU_16'] == pytest.approx(50)
    assert values['mean_mIoU_16'] == pytest.approx(75)


def test_unknown_class_in_a_subset_is_found_before_training():
    metric = METRICS.build(
        dict(type='DGIoUMetric', class_subsets={'16': ['road', 'lorry']})
    )
    with pytest.raises(UserError, match=r"'16'.*\['lorry'\].*road, car, sky"):
        metric.dataset_meta = META


def test_unknown_domain(batch):
    metric = DGIoUMetric(domains=['fog', 'rain'])
    metric.dataset_meta = META
    with pytest.raises(
        UserError, match=r"unknown domain 'night' \(/data/night/1.png\).*fog,"
    ):
        metric.process({}, batch)


def test_no_domain(batch):
    del batch[1]['domain']
    metric = DGIoUMetric()
    metric.dataset_meta = META
    with pytest.raises(UserError, match='PackDGInputs'):
        metric.process({}, batch)


def test_domains_without_images_are_pointed_out(batch, log):
    evaluate(batch, domains=['night', 'fog'])
    assert 'No image' not in log()
    _, metric = evaluate(batch, domains=['night', 'rain', 'fog'])
    assert 'No image of rain was evaluated' in log()
    # The order of the config, not of the data.
    assert list(metric.last_results['domains']) == ['night', 'fog']


def test_classes_outside_the_range(samples):
    for prediction, label, word in (
        ([[3, 0]], [[0, 0]], 'prediction'),
        ([[0, 0]], [[0, 7]], 'label'),
    ):
        with pytest.raises(UserError, match=f'{word}.*has 3 classes'):
            evaluate(samples([('fog', prediction, label)]))


def test_tables(batch, log):
    evaluate(batch, protocol='slide')
    text = log()
    assert 'protocol slide' in text
    rows = {
        cells[0]: cells[1:]
        for cells in (
            [cell.strip() for cell in line.strip('|').split('|')]
            for line in text.splitlines()
            if line.startswith('|')
        )
    }
    # Sky occurs nowhere, and night shows the road alone.
    columns = ['images', 'classes in mean', 'mIoU', 'aAcc', 'mAcc']
    assert rows['domain'] == columns
    assert rows['fog'] == ['2', '2 of 3', '41.67', '60.00', '58.33']
    assert rows['night'][:2] == ['1', '1 of 3']
    assert rows['mean of 2'] == ['', '', '70.83', '80.00', '79.17']
    assert rows['class'] == ['fog', 'night']
    assert rows['car'] == ['33.33', '-']


def test_a_table_of_all_classes_does_not_count_them(samples, log):
    evaluate(samples([('fog', [[0, 1, 2]], [[0, 1, 2]])]))
    assert 'classes in mean' not in log()
    assert 'fewer classes' not in log()


def test_classes_that_no_label_shows_are_named(batch, log):
    _, metric = evaluate(batch)
    assert (
        'The labels show fewer classes than the model has. fog: 2 of 3 (not '
        'sky); night: 1 of 3 (not car, sky)'
    ) in log()
    domains = metric.last_results['domains']
    assert domains['fog']['absent_classes'] == ['sky']
    assert domains['night']['absent_classes'] == ['car', 'sky']
    assert result_warnings().keys() == {'absent_classes'}


def test_images_whose_labels_are_ignored_are_counted(samples, log):
    entries = [('fog', [[0, 1, 2]], [[0, 1, 2]])] + [
        ('fog', [[0, 0, 0]], [[255, 255, 255]])
    ] * 2
    values, metric = evaluate(samples(entries))
    assert values['fog/mIoU'] == 100
    assert metric.last_results['domains']['fog']['images_without_labels'] == 2
    assert 'ignored (255) count for nothing: fog 2 of 3' in log()


def test_images_that_were_left_out_are_counted(batch, log):
    metric = DGIoUMetric()
    metric.dataset_meta = META
    metric.process({}, batch)
    metric.evaluate(5)
    assert 'Only 3 of 5 images were evaluated' in log()


def test_results_can_be_written_as_json(batch):
    _, metric = evaluate(
        batch, protocol='native', class_subsets={'a': ['sky']}
    )
    text = json.dumps(metric.last_results['domains']['fog']['class_iou'])
    assert json.loads(text) == dict(
        road=50.0, car=pytest.approx(100 / 3), sky=None
    )
    assert metric.last_results['protocol'] == 'native'
    assert metric.last_results['classes'] == ['road', 'car', 'sky']


def test_predictions_of_two_domains_do_not_overwrite(samples, tmp_path):
    entries = [('fog', [[0, 1]], [[0, 0]]), ('night', [[2, 1]], [[0, 0]])]
    batch = samples(entries)
    for sample in batch:
        sample['img_path'] = f'/data/{sample["domain"]}/0001.jpg'
    values, metric = evaluate(batch, output_dir=str(tmp_path))
    assert values['fog/aAcc'] == 50
    for domain, prediction, _ in entries:
        image = Image.open(tmp_path / domain / '0001.png')
        np.testing.assert_array_equal(np.asarray(image), prediction)
    assert metric.output_dir == str(tmp_path)


def test_predictions_of_two_folders_do_not_overwrite(samples, tmp_path):
    entries = [('fog', [[0, 1]], [[0, 0]]), ('fog', [[2, 1]], [[0, 0]])]
    batch = samples(entries)
    for sample, folder in zip(batch, 'ab', strict=True):
        sample['img_path'] = f'/data/{folder}/0.jpg'
        sample['sample_name'] = f'{folder}/0'
    evaluate(batch, output_dir=str(tmp_path))
    for (_, prediction, _), folder in zip(entries, 'ab', strict=True):
        image = Image.open(tmp_path / f'fog/{folder}/0.png')
        np.testing.assert_array_equal(np.asarray(image), prediction)
    # Other packages' datasets know the file name alone.
    for sample in batch:
        del sample['sample_name']
    with pytest.raises(UserError, match=r'/data/a/0\.jpg and /data/b/0\.jpg'):
        evaluate(batch, output_dir=str(tmp_path))


def test_names_instead_of_lists():
    with pytest.raises(UserError, match="domains='fog' is a str, not a list"):
        DGIoUMetric(domains='fog')
    with pytest.raises(UserError, match="source_domains='fog' is a str"):
        DGIoUMetric(source_domains='fog')
    with pytest.raises(UserError, match=r"class_subsets\['16'\]='road'"):
        DGIoUMetric(class_subsets={'16': 'road'})


def test_format_only(batch, tmp_path):
    for sample in batch:
        del sample['gt_sem_seg']
    values, _ = evaluate(batch, output_dir=str(tmp_path), format_only=True)
    assert values == {}
    assert len(list(tmp_path.rglob('*.png'))) == 3


def test_other_metrics_of_mmseg(batch):
    values, metric = evaluate(batch, iou_metrics=['mDice'])
    assert values['night/mDice'] == 100
    assert 'night/mIoU' not in values
    assert 'class_iou' not in metric.last_results['domains']['fog']


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(2, 19))
def test_equals_mmseg_within_its_rounding(seed, num_classes):
    generator = torch.Generator().manual_seed(seed)
    label = torch.randint(0, num_classes, (3, 9, 7), generator=generator)
    prediction = torch.randint(0, num_classes, (3, 9, 7), generator=generator)
    label[torch.rand(3, 9, 7, generator=generator) < 0.2] = 255
    meta = dict(classes=[str(i) for i in range(num_classes)])
    batch = [
        dict(
            pred_sem_seg=dict(data=p[None]),
            gt_sem_seg=dict(data=g[None]),
            domain='d',
            img_path='a.png',
        )
        for p, g in zip(prediction, label, strict=True)
    ]
    theirs = IoUMetric()
    theirs.dataset_meta = meta
    theirs.process({}, batch)
    theirs = theirs.evaluate(3)
    ours, metric = evaluate(batch, meta)
    for name, value in theirs.items():
        assert ours[f'd/{name}'] == pytest.approx(value, abs=0.00501)
    confusion = np.array(metric.last_results['domains']['d']['confusion'])
    assert confusion.sum() == (label != 255).sum()
    expected = np.zeros_like(confusion)
    counted = (label != 255).numpy()
    np.add.at(expected, (label.numpy()[counted], prediction[counted]), 1)
    np.testing.assert_array_equal(confusion, expected)


def test_counts_are_exact_above_float32():
    """2**24 + 1 pixels of one class, where a float32 histogram stops."""
    size = 2**24 + 3
    label = torch.zeros(1, size, dtype=torch.uint8)
    matrix = confusion_matrix(label, label, 2, 255)
    assert matrix.tolist() == [[size, 0], [0, 0]]


def test_scores_of_single_images(batch, tmp_path):
    _, metric = evaluate(batch)
    first, *_, last = metric.last_images
    # fog 0: road 1 hit, 1 false; car 1 hit, 1 missed.
    assert first == dict(
        domain='fog',
        name=None,
        path='/data/fog/0.png',
        mIoU=pytest.approx(50),
        aAcc=pytest.approx(200 / 3),
    )
    # Of the label's classes alone: road 1 hit, 1 missed.
    assert last['mIoU'] == pytest.approx(50)
    del batch[1]['gt_sem_seg']
    _, metric = evaluate(batch, output_dir=str(tmp_path))
    assert len(metric.last_images) == 2
    confusion = torch.tensor([[6, 2, 1], [0, 3, 0], [0, 0, 0]])
    scores = image_scores(confusion, 3)
    # The third class is predicted but not in the label: left out.
    assert scores['mIoU'] == pytest.approx(100 * (6 / 9 + 3 / 5) / 2)
    assert scores['aAcc'] == pytest.approx(75)
    nothing = image_scores(torch.zeros(3, 3, dtype=torch.int64), 3)
    assert math.isnan(nothing['mIoU']) and math.isnan(nothing['aAcc'])
