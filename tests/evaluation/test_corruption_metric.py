"""The means over corruptions, by hand."""

import math

import pytest
import torch
from mmseg.registry import METRICS

from clouds_mmseg.evaluation.protocols import apply_protocol
from clouds_mmseg.robustness.metric import corruption_table, summarize

# mIoU of two classes over four pixels, by the number of right ones.
LABEL = torch.tensor([[0, 0, 1, 1]])
ALL, THREE, HALF = (
    torch.tensor([p]) for p in ([0, 0, 1, 1], [0, 1, 1, 1], [0, 1, 0, 1])
)
IOU = {3: 100 * (1 / 2 + 2 / 3) / 2, 2: 100 / 3}
DOMAINS = dict(
    clean=ALL,
    gaussian_noise_1=ALL,
    gaussian_noise_5=THREE,
    shot_noise_1=THREE,
    shot_noise_5=HALF,
    fog_1=ALL,
    fog_5=HALF,
)


@pytest.fixture
def metric():
    metric = METRICS.build(
        dict(type='CorruptionMetric', domains=list(DOMAINS), protocol='native')
    )
    metric.dataset_meta = dict(classes=('road', 'sky'))
    return metric


def evaluate(metric, samples, domains=None):
    entries = [(name, DOMAINS[name], LABEL) for name in domains or DOMAINS]
    for sample in samples(entries):
        metric.process({}, [sample])
    return metric.evaluate(len(entries))


def test_means_by_corruption_severity_category(metric, samples):
    found = evaluate(metric, samples)
    gaussian = (100 + IOU[3]) / 2
    shot = (IOU[3] + IOU[2]) / 2
    fog = (100 + IOU[2]) / 2
    expected = {
        'corruption/gaussian_noise': gaussian,
        'corruption/shot_noise': shot,
        'corruption/fog': fog,
        'severity/1': (100 + IOU[3] + 100) / 3,
        'severity/5': (IOU[3] + IOU[2] + IOU[2]) / 3,
        'category/noise': (gaussian + shot) / 2,
        'category/weather': fog,
        # Equal weight for corruptions, not for categories.
        'mean_mIoU': (gaussian + shot + fog) / 3,
        'retention': (gaussian + shot + fog) / 3,
        'clean/mIoU': 100,
        'fog_5/mIoU': IOU[2],
    }
    assert {k: found[k] for k in expected} == pytest.approx(expected)
    summary = metric.last_results['corruptions']
    assert summary['grid']['shot_noise'][5] == pytest.approx(IOU[2])
    assert summary['overall'] == found['mean_mIoU']
    assert metric.last_results['mean']['mIoU'] == found['mean_mIoU']


def test_tables(metric, samples):
    evaluate(metric, samples)
    shown = metric._tables(
        metric.last_results['domains'], metric.last_results['mean']
    )
    rows = [
        [cell.strip() for cell in line.strip('|').split('|')]
        for line in shown.splitlines()
        if line.startswith('|')
    ]
    assert rows[:8] == [
        ['corruption', '1', '5', 'mean'],
        ['gaussian_noise', '100.00', '58.33', '79.17'],
        ['shot_noise', '58.33', '33.33', '45.83'],
        ['mean of noise', '79.17', '45.83', '62.50'],
        ['fog', '100.00', '33.33', '66.67'],
        ['mean of weather', '100.00', '33.33', '66.67'],
        ['mean of 3 corruptions', '86.11', '41.67', '63.89'],
        ['class', 'clean', 'noise', 'weather'],
    ]
    assert rows[8][:2] == ['road', '100.00']
    assert '1 images a cell; clean 100.00, kept under corruption 63.9' in shown


def test_without_the_clean_images(metric, samples):
    found = evaluate(metric, samples, ['fog_1', 'fog_5'])
    assert math.isnan(found['retention'])
    assert found['mean_mIoU'] == pytest.approx((100 + IOU[2]) / 2)
    shown = corruption_table(metric.last_results['corruptions'])
    assert 'mean of 1 corruption ' in shown and 'clean' not in shown


def test_severities_that_a_corruption_lacks():
    reports = {
        name: dict(images=2, metrics=dict(mIoU=value))
        for name, value in (('fog_1', 10.0), ('fog_2', 20.0), ('snow_1', 40.0))
    }
    summary = summarize(reports)
    assert summary['corruption'] == dict(fog=15.0, snow=40.0)
    assert summary['severity'] == {1: 25.0, 2: 20.0}
    assert summary['overall'] == 27.5
    rows = corruption_table(summary).splitlines()
    assert [c.strip() for c in rows[3].split('|')[1:-1]] == [
        'snow', '40.00', '-', '40.00'
    ]  # fmt: skip


def test_nothing_is_measured_where_files_are_asked_for(samples, tmp_path):
    metric = METRICS.build(
        dict(
            type='CorruptionMetric',
            format_only=True,
            output_dir=str(tmp_path),
        )
    )
    metric.dataset_meta = dict(classes=('road', 'sky'))
    assert evaluate(metric, samples, ['fog_1']) == {}
    assert (tmp_path / 'fog_1/0.png').is_file()


def test_a_protocol_is_recorded(metric):
    from mmengine.config import Config

    cfg = Config(dict(test_evaluator=dict(type='CorruptionMetric')))
    apply_protocol(cfg, 'slide')
    assert cfg.test_evaluator.protocol == 'slide'
