"""What is read from work dirs, and what is refused."""

import json
import shutil

import pytest

from clouds_mmseg.report.read_run import read_runs
from clouds_mmseg.utils.errors import UserError


def write_scalars(folder, log, entries):
    path = folder / log / 'vis_data' / 'scalars.json'
    path.parent.mkdir(parents=True)
    path.write_text(''.join(json.dumps(e) + '\n' for e in entries))


def test_a_run_is_read(seeds):
    first, second = read_runs([seeds / 'seed0/tiny', seeds / 'seed1/tiny'])
    assert (first.name, second.name) == ('seed0/tiny', 'seed1/tiny')
    assert (first.seed, second.seed) == (0, 1)
    assert first.trained == first.planned == 4
    assert not first.is_unfinished
    assert first.sources == ['day']
    assert dict(first.about)['schedule'].startswith('4 iterations')
    assert 'PyTorch: ' in first.environment
    assert sorted(first.curves['mean_mIoU']) == [2, 4]
    assert {d: sorted(p) for d, p in first.panels.items()} == {
        domain: ['000', '001', '002'] for domain in ('day', 'dusk')
    } or all(len(p) >= 2 for p in first.panels.values())
    assert sorted(second.teacher) == sorted(second.pseudo_labels) == [2, 4]
    assert second.teacher[2]['after']['mIoU'] == 30.5
    assert len(first.images) == 6
    paths = {path for path, _, _ in first.files}
    assert {'results.json', 'images.json'} <= paths


def test_a_resumed_run_replaces_what_was_logged_after_it(tmp_path):
    write_scalars(
        tmp_path,
        'a',
        [
            dict(loss=1.0, lr=0.1, iter=50, step=50),
            {'x/mIoU': 10.0, 'step': 50},
            dict(loss=2.0, lr=0.1, iter=100, step=100),
            dict(loss=9.0, grad_norm=7.0, iter=130, step=130),
        ],
    )
    write_scalars(
        tmp_path,
        'b',
        [
            {'x/mIoU': 11.0, 'step': 100},
            dict(loss=3.0, lr=0.1, iter=120, step=120),
        ],
    )
    (run,) = read_runs([tmp_path])
    assert run.curves['loss'] == {50: 1.0, 100: 2.0, 120: 3.0}
    assert run.curves['x/mIoU'] == {50: 10.0, 100: 11.0}
    assert run.curves['grad_norm'] == {}
    assert run.trained == 120


def test_values_that_are_not_finite_are_gaps(tmp_path):
    write_scalars(tmp_path, 'a', [dict(loss=float('nan'), step=1)])
    (run,) = read_runs([tmp_path])
    assert run.curves['loss'][1] != run.curves['loss'][1]
    assert run.notes == ['It was not evaluated: there are no results yet.']


def test_scores_of_another_evaluation_are_left_out(copied, change):
    change(date='2000-01-01T00:00:00+00:00')
    (run,) = read_runs([copied])
    assert run.images == []
    assert 'images.json is of another evaluation' in ' '.join(run.notes)


def test_a_run_without_scores_of_images_is_told(copied):
    (copied / 'images.json').unlink()
    (run,) = read_runs([copied])
    assert run.images == []
    assert 'There is no images.json' in ' '.join(run.notes)
    assert 'clouds test CONFIG CHECKPOINT' in ' '.join(run.notes)


def test_older_results_are_pointed_out(copied, change):
    change(iteration=2)
    (run,) = read_runs([copied])
    assert 'The results are of iteration 2, 4 were trained.' in run.notes


def test_what_is_no_work_dir(copied, tmp_path):
    empty = tmp_path / 'empty'
    empty.mkdir()
    (log,) = (p.parent for p in copied.glob('*/vis_data'))
    for folder, message in (
        (tmp_path / 'none', 'there is no such folder'),
        (copied / 'results.json', 'is a file: give the work dir'),
        (empty, 'is no work dir: it has no results.json'),
        (log, f'the log folder of one run: give {copied}'),
        (tmp_path, f'there are work dirs below it: {copied}'),
    ):
        if folder == log:
            shutil.rmtree(folder / 'pictures')
            (folder / 'results.json').unlink()
        with pytest.raises(UserError, match=message):
            read_runs([folder])
    with pytest.raises(UserError, match='is given twice'):
        read_runs([copied, tmp_path / 'empty' / '..' / copied.name])


@pytest.mark.parametrize(
    ('name', 'text', 'message'),
    [
        ('results.json', '{"metrics": {', 'is no JSON: line 1'),
        ('results.json', '[1]', 'holds a list where an object'),
        ('results.json', '{"phase": "val"}', '"metrics" is missing'),
        (
            'results.json',
            '{"metrics": {}, "domains": {"a": {}}, "classes": []}',
            'domain \'a\' has no "metrics"',
        ),
        (
            'results.json',
            '{"metrics": {}, "classes": ["x"], "domains": '
            '{"a": {"metrics": {"mIoU": "7"}}}}',
            "domain 'a' has a value that is no number",
        ),
        (
            'results.json',
            '{"metrics": {}, "classes": ["x", "y"], "domains": '
            '{"a": {"metrics": {}, "confusion": [[1]]}}}',
            "the confusion matrix of 'a' is not 2x2",
        ),
        ('images.json', '{"date": "x"}', 'has no list "images"'),
        ('pseudo_labels.json', '{"x": {}}', 'no list of measurements'),
    ],
)
def test_a_broken_file_is_named(copied, name, text, message):
    (copied / name).write_text(text)
    with pytest.raises(UserError, match=message) as error:
        read_runs([copied])
    assert str(copied / name) in str(error.value)


def test_a_broken_line_of_the_log_is_named(copied):
    (path,) = copied.glob('*/vis_data/scalars.json')
    path.write_text('{"loss": 1, \n' + path.read_text())
    with pytest.raises(UserError, match='line 1 of .*scalars.json is no JSON'):
        read_runs([copied])
