"""Real trainings of a few iterations on a very small ToyCity."""

import json
import runpy
import subprocess
import sys
from types import SimpleNamespace

import pytest
from PIL import Image

from ablation.rows import SCHEDULES, choose
from ablation.schedule import Run, train_all
from clouds_mmseg.toycity import write_toycity
from clouds_mmseg.utils.errors import UserError
from clouds_mmseg_cli.names import ABLATION_ROWS


@pytest.fixture(scope='module')
def data_root(tmp_path_factory):
    root = tmp_path_factory.mktemp('data')
    write_toycity(
        root / 'toycity',
        num_source=4,
        num_source_val=4,
        num_target=4,
        size=(128, 64),
        workers=1,
    )
    return root


@pytest.fixture
def ablation(repo_root, data_root, monkeypatch):
    """Run tools/ablation.py in this process; returns the exit status."""
    monkeypatch.setenv('CLOUDS_DATA_ROOT', str(data_root))
    monkeypatch.chdir(repo_root)

    def run(*words):
        path = str(repo_root / 'tools' / 'ablation.py')
        monkeypatch.setattr(sys, 'argv', [path, *map(str, words)])
        try:
            runpy.run_path(path, run_name='__main__')
        except SystemExit as leave:
            return leave.code or 0
        return 0

    return run


@pytest.fixture
def in_forks(warm_python, monkeypatch):
    """Let trainings begin, when this is called, as forks of a process."""

    class Fork:
        """A process that has ended."""

        def __init__(self, command, *, stdout, stderr, env):
            assert (command[0], stderr) == (sys.executable, subprocess.STDOUT)
            done = warm_python.run(*command[1:], env=env)
            stdout.write(done.stdout + done.stderr)
            self.returncode = done.returncode

        def poll(self):
            return self.returncode

    def begin():
        replaced = SimpleNamespace(Popen=Fork, STDOUT=subprocess.STDOUT)
        monkeypatch.setattr('ablation.schedule.subprocess', replaced)

    return begin


SHORT = (
    '--cfg-options',
    'train_cfg.max_iters=2',
    'train_cfg.val_interval=2',
    'default_hooks.checkpoint.interval=1',
    'total_batch_size=2',
    'train_dataloader.num_workers=0',
    'train_dataloader.persistent_workers=False',
    'val_dataloader.num_workers=0',
    'val_dataloader.persistent_workers=False',
    'banks.0.num=4',
    'banks.1.num=4',
    'banks.2.num=4',
    # Of each validation 28 images are drawn otherwise.
    'custom_hooks.1.per_domain=1',
    'custom_hooks.1.worst=0',
    'custom_hooks.1.width=64',
)


def test_ablation_trains_compares_and_continues(
    ablation, in_forks, tmp_path, capsys
):
    # The row without self-training has its warm-up to the end.
    work = tmp_path / 'work'
    words = ['--work-dir', work, '--seeds', 0, '--jobs', 1]
    words += ['--schedules', 'short', '--rows']
    assert ablation(*words, 'source', *SHORT, 'train_cfg.warmup_iters=2') == 0
    # That was as users start it; now without importing the stack anew.
    in_forks()
    capsys.readouterr()
    options = (*SHORT, 'train_cfg.warmup_iters=1')
    assert ablation(*words, 'source', 'refinement', *options) == 0
    text = capsys.readouterr().out
    assert '1 of 2 runs are finished already' in text
    log = (work / 'short/seed0' / 'refinement.log').read_text()
    assert f'Loaded the checkpoint {work}/short/seed0/source/iter_1.pth' in log
    assert 'Self-training begins at iteration 1' in log
    assert 'before refinement: mIoU' in log
    measured = json.loads(
        (work / 'short/seed0/refinement/pseudo_labels.json').read_text()
    )
    assert list(measured) == ['1', '2']
    for at in measured.values():
        assert at['images'] == 4
        assert at['before']['kept'] == 100
        assert 0 <= at['after']['mIoU'] <= 100
    table = (work / 'ablation.md').read_text()
    assert table in text
    assert '| + refinement |' in table
    for name in ('targets', 'pseudo_labels'):
        with Image.open(work / 'pictures' / f'{name}.png') as picture:
            assert picture.width == 4 * 256 + 5 * 6
    # Nothing is left to train.
    assert ablation(*words, 'source', 'refinement', *options) == 0
    assert '2 of 2 runs are finished' in capsys.readouterr().out
    # Killed in its last evaluation: the end is trained again.
    results = work / 'short/seed0/refinement/results.json'
    before = json.loads(results.read_text())['metrics']
    results.unlink()
    assert ablation(*words, 'source', 'refinement', *options) == 0
    assert json.loads(results.read_text())['metrics'] == before


def test_dry_run_prints_commands_that_share_warm_ups(ablation, capsys):
    assert ablation('--dry-run', '--seeds', 7) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 * len(ABLATION_ROWS)
    assert all('randomness.seed=7' in line for line in lines)
    # Rows that others continue come first.
    assert 'ablation/source.py' in lines[0]
    assert 'ablation/restyling.py' in lines[1]
    shared = '--resume work_dirs/ablation/long/seed7/restyling/iter_400.pth'
    assert shared in lines[-1]


def test_rows_of_claims_have_more_seeds(ablation, capsys):
    assert ablation('--dry-run') == 0
    lines = capsys.readouterr().out.splitlines()
    long = [line for line in lines if '/long/' in line]
    assert len(lines) - len(long) == 7 * 5 + 8 * 3
    assert len(long) == 4 * 3
    controls = [line for line in lines if 'labelled_six.py' in line]
    assert len(controls) == 3
    alone = ('--dry-run', '--schedules', 'long', '--rows', 'labelled_mixed')
    assert ablation(*alone) != 0
    assert 'name them, such as --seeds 0 1' in ''.join(capsys.readouterr())
    assert ablation(*alone, '--seeds', 2) == 0


def test_wrong_options_are_refused(ablation, capsys):
    assert ablation('--seeds', 1, 1) != 0
    assert ablation('--jobs', 0) != 0
    text = ''.join(capsys.readouterr())
    assert 'each of them once, got [1, 1]' in text
    assert '--jobs must be at least 1, got 0' in text


def test_failed_training_shows_the_end_of_its_log(
    repo_root, in_forks, tmp_path, monkeypatch
):
    in_forks()
    monkeypatch.setenv('CLOUDS_DATA_ROOT', str(tmp_path / 'nowhere'))
    monkeypatch.chdir(repo_root)
    run = Run(
        choose(['source'])[0], SCHEDULES['short'], 0, tmp_path / 'source'
    )
    with pytest.raises(UserError, match='(?s)source, 200 .* seed 0.*nowhere'):
        train_all([run], jobs=1, log=lambda line: None)
