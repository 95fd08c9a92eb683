"""Tables, and the rows they show."""

import pytest
import torch

from ablation.report import (
    results_table,
    spread,
    teacher_table,
)
from ablation.rows import ROWS, choose
from clouds_mmseg.engine.hooks.self_training import _Score


def test_spread_is_mean_and_sample_deviation():
    assert spread([40.0]) == '40.0'
    # Deviations -1, 0, 1: the sample variance is 2 / 2.
    assert spread([39.0, 40.0, 41.0]) == '40.0 ± 1.0'
    assert spread([1.0, 2.0], digits=2) == '1.50 ± 0.71'


def rows():
    return {
        'source': dict(
            title='source only',
            mIoU={'toycity_fog': [30.0, 32.0], 'mean': [30.0, 32.0]},
            teacher=[],
        ),
        'all': dict(
            title='+ all',
            mIoU={'toycity_fog': [41.0, 41.0], 'mean': [40.0, 43.0]},
            teacher=[
                {
                    '5': dict(
                        before=dict(mIoU=50.0, aAcc=60.0),
                        after=dict(mIoU=51.0, aAcc=62.0),
                    )
                },
                {
                    '5': dict(
                        before=dict(mIoU=50.0, aAcc=60.0),
                        after=dict(mIoU=53.0, aAcc=62.0),
                    )
                },
            ],
        ),
    }


def test_gain_is_of_a_seed_over_the_same_seed():
    *_, source, whole = results_table(rows()).splitlines()
    cells = [cell.strip() for cell in source.strip('|').split('|')]
    assert cells == ['source only', '31.0 ± 1.4', '31.0 ± 1.4', '']
    cells = [cell.strip() for cell in whole.strip('|').split('|')]
    assert cells == ['+ all', '41.0 ± 0.0', '41.5 ± 2.1', '+10.5 ± 0.7']


def test_teacher_is_shown_where_there_was_one():
    lines = teacher_table(rows()).splitlines()
    assert len(lines) == 3
    cells = [cell.strip() for cell in lines[-1].strip('|').split('|')]
    assert cells[:4] == ['+ all', '5', '50.0 ± 0.0', '52.0 ± 1.4']
    assert teacher_table({'source': rows()['source']}) == ''


def test_a_row_alone_trains_its_own_warm_up():
    assert [row.warm_up for row in choose(['source', 'all'])] == [None, None]
    shared = {row.name: row.warm_up for row in choose([r.name for r in ROWS])}
    assert shared['refinement'] == 'source'
    assert shared['all'] == 'restyling'


def test_score_counts_labelled_pixels_only():
    score = _Score(('road', 'sky'))
    truth = torch.tensor([[0, 0, 1, 1, 255]])
    score.add(torch.tensor([[0, 1, 1, 255, 0]]), truth)
    report = score.report()
    # Right: pixels 0 and 2 of the three that have label and truth.
    assert report['aAcc'] == pytest.approx(100 * 2 / 3)
    assert report['kept'] == pytest.approx(75)
    assert report['IoU'] == pytest.approx({'road': 50.0, 'sky': 50.0})
    assert report['mIoU'] == pytest.approx(50)
