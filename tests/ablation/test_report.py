"""Tables, plots, and the rows they show."""

import json
from itertools import combinations
from pathlib import Path

import pytest
import torch
from PIL import Image

from ablation.plots import plot_accuracy, plot_gains
from ablation.report import (
    differences_table,
    merge,
    results_table,
    teacher_table,
)
from ablation.rows import ROWS, SCHEDULES, choose
from ablation.run import update_docs
from ablation.schedule import Run
from clouds_mmseg.engine.hooks.self_training import LabelScore
from clouds_mmseg.utils.errors import UserError
from clouds_mmseg.utils.statistics import paired_difference, spread
from clouds_mmseg_cli.names import ABLATION_ROWS


def test_spread_is_mean_and_sample_deviation():
    assert spread([40.0]) == '40.0'
    # Deviations -1, 0, 1: the sample variance is 2 / 2.
    assert spread([39.0, 40.0, 41.0]) == '40.0 ± 1.0'
    assert spread([1.0, 2.0], digits=2) == '1.50 ± 0.71'


def results():
    def measured(before, after):
        return {
            '5': dict(
                before=dict(mIoU=before, aAcc=60.0),
                after=dict(mIoU=after, aAcc=62.0),
            )
        }

    fog = {'0': dict(toycity_fog=30.0), '1': dict(toycity_fog=32.0)}
    return dict(
        schedule='200 + 200',
        rows=dict(
            restyling={'0': 30.0, '1': 32.0}, all={'0': 40.0, '1': 43.0}
        ),
        source=dict(
            restyling={'0': 70.0, '1': 71.0}, all={'0': 69.0, '1': 69.0}
        ),
        targets=dict(restyling=fog, all=fog),
        teacher=dict(
            all={'0': measured(50.0, 51.0), '1': measured(50.0, 53.0)}
        ),
    )


def cells(line):
    return [cell.strip() for cell in line.strip('|').split('|')]


def test_results_by_domain():
    *_, restyling, whole = results_table(results()).splitlines()
    assert cells(restyling) == [
        'restyling',
        '70.5 ± 0.7',
        '31.0 ± 1.4',
        '31.0 ± 1.4',
    ]
    assert cells(whole)[-1] == '41.5 ± 2.1'


def test_differences_are_of_a_seed_to_the_same_seed():
    *_, line = differences_table(results()).splitlines()
    # 10 and 11: the standard error is 0.5, t(0.975, 1) = 12.706.
    assert cells(line)[1:] == ['restyling', '+10.5 ± 6.4', '+10.0, +11.0']
    alone = results()
    del alone['rows']['restyling']
    assert differences_table(alone) == ''


def test_interval_is_students():
    ours = {'0': 1.0, '1': 2.0, '2': 3.0, '7': 9.0}
    found = paired_difference(ours, dict.fromkeys(['2', '1', '0'], 0.0))
    assert found.values == (1.0, 2.0, 3.0)
    assert found.margin == pytest.approx(4.302653 / 3**0.5, rel=1e-5)
    assert found.low < 0 < found.high
    assert str(paired_difference({'3': 2.0}, {'3': 1.5})) == '+0.5'
    assert paired_difference({'3': 2.0}, {'4': 1.5}) is None


def test_teacher_is_shown_where_there_was_one():
    lines = teacher_table(results()).splitlines()
    assert len(lines) == 3
    assert cells(lines[-1])[1:4] == ['5', '50.0 ± 0.0', '52.0 ± 1.4']
    assert teacher_table(dict(results(), teacher={})) == ''


def test_results_of_other_seeds_are_kept():
    known = results()
    found = dict(rows=dict(all={'1': 44.0, '2': 45.0}), schedule='200 + 200')
    merged = merge(known, found)
    assert merged['rows']['all'] == {'0': 40.0, '1': 44.0, '2': 45.0}
    assert merged['rows']['restyling'] == known['rows']['restyling']
    assert known == results()


def test_first_stages_are_shared():
    def providers(*names):
        return {row.name: row.warm_up for row in choose(names)}

    assert providers('source', 'all') == dict(source=None, all=None)
    assert providers('source', 'refinement')['refinement'] == 'source'
    # Without restyling.py, the first row with its first stage trains it.
    found = providers('source', 'all', 'all_plus')
    assert found == dict(source=None, all=None, all_plus='all')
    found = providers(*ABLATION_ROWS)
    assert found['true_labels'] == 'restyling'
    with pytest.raises(UserError, match='labelled_six .* name that row too'):
        choose(['labelled_six'])


def test_rows_accept_the_first_stage_of_any_row(repo_root, monkeypatch):
    """A first stage does not see the second group of images."""
    monkeypatch.chdir(repo_root)
    configs = {
        row.name: Run(row, SCHEDULES['short'], 0, Path('work')).config()
        for row in ROWS
        if row.two_stages
    }
    checked = 0
    for pair in combinations(configs, 2):
        for row in choose(pair):
            if row.warm_up not in (None, row.baseline):
                ours, theirs = configs[row.name], configs[row.warm_up]
                if ours.train_dataloader != theirs.train_dataloader:
                    accepted = ours.resume_cfg.accept
                    assert 'train_dataloader.dataset' in accepted, row.name
                    checked += 1
    assert checked


@pytest.mark.parametrize('name', ABLATION_ROWS)
def test_configs_of_the_rows_follow_the_schedule(name, repo_root, monkeypatch):
    monkeypatch.chdir(repo_root)
    row = next(row for row in ROWS if row.name == name)
    cfg = Run(row, SCHEDULES['long'], 0, Path('work')).config()
    assert cfg.train_cfg.max_iters == 800
    expected = 400 if row.two_stages else 800
    assert cfg.train_cfg.warmup_iters == expected
    # Another rate would make the stages of rows differ.
    assert cfg.param_scheduler[0]['period'] == 400


def test_plots_are_drawn(tmp_path):
    plot_gains({'200 + 200': results()}, tmp_path / 'gains.png')
    plot_accuracy(results(), tmp_path / 'labels.png')
    for name in ('gains', 'labels'):
        with Image.open(tmp_path / f'{name}.png') as image:
            assert image.width > 500 and len(set(image.getdata())) > 10


def test_pages_are_made_from_the_results(tmp_path, capsys):
    page = tmp_path / 'ablation.md'
    page.write_text('# Ablation\n')
    with pytest.raises(UserError, match='has no place for the tables'):
        update_docs(tmp_path, dict(short=results()))
    page.write_text(
        '# Ablation\n\n<!-- begin: tools/ablation.py -->\nold\n<!-- end -->\n'
        '\nText.\n'
    )
    update_docs(tmp_path, dict(short=results()))
    longer = dict(results(), schedule='400 + 400')
    update_docs(tmp_path, dict(long=longer))
    stored = json.loads((tmp_path / 'ablation.json').read_text())
    assert stored['rows']['all'] == {'0': 40.0, '1': 43.0}
    assert stored['longer']['schedule'] == '400 + 400'
    text = page.read_text()
    assert text.startswith('# Ablation\n') and text.endswith('\nText.\n')
    assert '### 200 + 200 iterations' in text
    assert '### 400 + 400 iterations' in text
    assert '+10.5 ± 6.4' in text and 'old' not in text
    assert (tmp_path / 'images/ablation_gains.png').is_file()


def test_score_counts_labelled_pixels_only():
    score = LabelScore(('road', 'sky'))
    truth = torch.tensor([[0, 0, 1, 1, 255]])
    score.add(torch.tensor([[0, 1, 1, 255, 0]]), truth)
    report = score.report()
    # Right: pixels 0 and 2 of the three that have label and truth.
    assert report['aAcc'] == pytest.approx(100 * 2 / 3)
    assert report['kept'] == pytest.approx(75)
    assert report['IoU'] == pytest.approx({'road': 50.0, 'sky': 50.0})
    assert report['mIoU'] == pytest.approx(50)
