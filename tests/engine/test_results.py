import hashlib
import json
import math
import subprocess
import sys
from importlib import metadata

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mmengine.hooks import Hook

from clouds_mmseg import __version__
from clouds_mmseg.engine.hooks.results import git_commit, jsonable, to_json
from clouds_mmseg.utils.image_set import sha256_of
from clouds_mmseg.utils.result_warnings import warn_about_results

values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-5, 5)
    | st.floats()
    | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(max_size=4), inner, max_size=4)
    ),
    max_leaves=12,
)


@settings(max_examples=80, deadline=None)
@given(value=values)
def test_json_gives_back_what_went_in(value):
    def without_nan(x):
        if isinstance(x, dict):
            return {k: without_nan(v) for k, v in x.items()}
        if isinstance(x, list):
            return [without_nan(v) for v in x]
        if isinstance(x, float) and not math.isfinite(x):
            return None
        return x

    assert json.loads(to_json(value)) == without_nan(value)


def test_numbers_of_numpy_and_torch():
    got = jsonable(
        {
            1: np.float32(0.5),
            'a': np.arange(2),
            't': torch.tensor([1.5, math.nan]),
            's': (np.int64(3), complex(1, 2)),
        }
    )
    assert got == {
        '1': 0.5,
        'a': [0, 1],
        't': [1.5, None],
        's': [3, '(1+2j)'],
    }


def test_rows_of_numbers_stay_on_a_line():
    text = to_json({'rows': [[1, 2], [3, None]], 'text': 'a [\n1,  2] b'})
    assert '[ 1, 2 ]' in text
    assert json.loads(text)['text'] == 'a [\n1,  2] b'


def test_the_results_of_a_validation(trained):
    results = json.loads((trained / 'results.json').read_text())
    (copy,) = trained.glob('*/results.json')
    assert json.loads(copy.read_text()) == results
    assert results['phase'] == 'val'
    assert results['protocol'] == 'native'
    assert results['iteration'] == 4
    assert results['seed'] == 0
    assert results['domains'].keys() == {'day', 'dusk'}
    day = results['domains']['day']
    assert day['metrics']['mIoU'] == results['metrics']['day/mIoU']
    assert day['class_iou'].keys() == {'ground', 'sky', 'box'}
    assert results['mean']['mIoU'] == pytest.approx(
        np.mean([d['metrics']['mIoU'] for d in results['domains'].values()])
    )
    path = trained / 'iter_4.pth'
    assert results['checkpoint'] == dict(
        path=str(path), sha256=hashlib.sha256(path.read_bytes()).hexdigest()
    )
    assert results['config']['path'].endswith('tiny.py')
    assert "type='FolderDataset'" in results['config']['text']
    versions = results['versions']
    assert versions['clouds_mmseg'] == __version__
    assert versions['mmseg'] == metadata.version('onedl-mmsegmentation')
    assert versions['torch'] == torch.__version__.split('+')[0] or (
        versions['torch'] == torch.__version__
    )
    assert results['device']
    assert results['processes'] == 1
    assert 0 < results['seconds'] < 600
    assert results['date'].endswith('+00:00')
    assert sys.argv[0] in results['command']


def test_the_scores_of_images_lie_beside_the_results(trained):
    results = json.loads((trained / 'results.json').read_text())
    found = json.loads((trained / 'images.json').read_text())
    (copy,) = trained.glob('*/images.json')
    assert json.loads(copy.read_text()) == found
    assert found['date'] == results['date']
    assert [(r['domain'], r['name']) for r in found['images']] == [
        (domain, name)
        for domain in ('day', 'dusk')
        for name in ('000', '001', '002')
    ]
    for record in found['images']:
        assert record['path'].endswith(f'/images/{record["name"]}.png')
        assert 0 <= record['mIoU'] <= 100 and 0 <= record['aAcc'] <= 100


def test_the_commit_is_that_of_the_package(repo_root, monkeypatch):
    git_commit.cache_clear()
    if (repo_root / '.git').exists():
        head = subprocess.run(
            ['git', 'rev-parse', 'HEAD'],
            cwd=repo_root,
            capture_output=True,
            text=True,
        ).stdout.strip()
        assert git_commit() in (head, f'{head} and changes')
    git_commit.cache_clear()
    monkeypatch.setenv('PATH', '')
    assert git_commit() is None
    git_commit.cache_clear()


def test_the_results_of_a_test_name_the_checkpoint(build, trained, tmp_path):
    path = trained / 'iter_2.pth'
    metrics = build(load_from=str(path), randomness__seed=5).test()
    results = json.loads((tmp_path / 'work' / 'results.json').read_text())
    assert results['phase'] == 'test'
    # Iteration and seed are the checkpoint's, not this process's.
    assert results['iteration'] == 2
    assert results['seed'] == 0
    assert results['checkpoint']['path'] == str(path)
    assert results['metrics'] == pytest.approx(metrics, nan_ok=True)


def test_untrained_weights_have_no_checkpoint(build, tmp_path):
    build().test()
    results = json.loads((tmp_path / 'work' / 'results.json').read_text())
    assert results['checkpoint'] is None
    assert results['iteration'] is None


def test_weights_that_were_not_saved_have_no_checkpoint(build, tmp_path):
    build(
        train_cfg__max_iters=3,
        train_cfg__val_interval=3,
        default_hooks__checkpoint__save_last=False,
    ).train()
    results = json.loads((tmp_path / 'work' / 'results.json').read_text())
    assert results['iteration'] == 3
    assert results['checkpoint'] is None


def test_a_stock_metric_has_results_too(build, tmp_path):
    build(
        val_evaluator=dict(_delete_=True, type='IoUMetric'),
        test_evaluator=dict(_delete_=True, type='IoUMetric'),
    ).test()
    results = json.loads((tmp_path / 'work' / 'results.json').read_text())
    assert results['metrics'].keys() == {'aAcc', 'mIoU', 'mAcc'}
    assert results['protocol'] is None


def test_a_fetched_checkpoint_is_named_without_a_hash(build):
    runner = build()
    (hook,) = [h for h in runner._hooks if type(h).__name__ == 'ResultsHook']
    assert hook._checkpoint('https://a/b.pth') == dict(
        path='https://a/b.pth', sha256=None
    )


def test_hashes_of_large_files(tmp_path):
    content = bytes(range(256)) * 9000
    (tmp_path / 'x').write_bytes(content)
    want = hashlib.sha256(content).hexdigest()
    assert sha256_of(tmp_path / 'x') == want


class _Warn(Hook):
    """Doubt the run at its start, and each validation at its start."""

    def before_train(self, runner):
        warn_about_results('about the run')

    def before_val_iter(self, runner, batch_idx, data_batch=None):
        if batch_idx == 0:
            warn_about_results(f'about validation {runner.iter}')


def test_warnings_stand_below_the_table_and_in_the_results(build, tmp_path):
    # Otherwise it is a warning that the mean counts a trained domain.
    seen = dict(val_evaluator__source_domains=['day'])
    runner = build(train_cfg__val_interval=2, **seen)
    runner.register_hook(_Warn())
    runner.train()
    results = json.loads((tmp_path / 'work' / 'results.json').read_text())
    # The one about the first validation is over.
    assert results['warnings'] == ['about the run', 'about validation 4']
    (log,) = (tmp_path / 'work').glob('*/*.log')
    text = log.read_text()
    end = text[text.rindex('Results by domain') :]
    assert '  - about the run\n  - about validation 4' in end
    again = build(resume=True, train_cfg__max_iters=6, **seen)
    again.train()
    results = json.loads((tmp_path / 'work' / 'results.json').read_text())
    assert results['warnings'] == ['about the run']


def test_no_warning_leaks_into_the_next_run(build, tmp_path):
    build(tmp_path / 'a')
    warn_about_results('about a')
    build(tmp_path / 'b').test()
    results = json.loads((tmp_path / 'b' / 'results.json').read_text())
    assert 'about a' not in results['warnings']
