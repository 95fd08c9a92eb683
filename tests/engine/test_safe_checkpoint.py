import json
import os
from pathlib import Path

import pytest
import torch

from clouds_mmseg.engine.hooks.checkpoint import AtomicLocalBackend
from clouds_mmseg.weights.load import read_checkpoint

SCRIPT = Path(__file__).with_name('killed_while_saving.py')


@pytest.fixture(scope='module')
def killed(tmp_path_factory, tiny_data, warm_python):
    """Folder of runs killed at each step, and what the script said."""
    from tiny_run import write_config

    folder = tmp_path_factory.mktemp('killed')
    config = write_config(folder / 'tiny.py', tiny_data)
    done = warm_python.run(SCRIPT, config, folder)
    assert done.returncode == 0, done.stderr
    lines = [x for x in done.stdout.splitlines() if x.startswith('{')]
    return folder, [json.loads(line) for line in lines]


def test_a_kill_at_any_moment_leaves_a_whole_checkpoint(killed):
    _, kills = killed
    steps = [kill['step'] for kill in kills]
    # The kills hit what they should: writing, renaming and removing.
    assert sum(step.startswith('half of') for step in steps) == 2
    assert 'before renaming to iter_2.pth' in steps
    assert 'before renaming to last_checkpoint' in steps
    assert 'before removing' in steps
    assert [kill['error'] for kill in kills] == [None] * len(kills)
    first = steps.index('after renaming to last_checkpoint')
    assert all(kill['iteration'] is None for kill in kills[:first])
    reached = [kill['iteration'] for kill in kills[first:]]
    assert set(reached) == {1, 2}
    assert reached == sorted(reached)


def test_the_next_run_goes_on_and_sweeps(killed, build):
    folder, kills = killed
    number = [k['step'] for k in kills].index('before renaming to iter_2.pth')
    work_dir = folder / str(number + 1)
    assert list(work_dir.glob('.iter_2-*.pth'))
    (work_dir / '.last_checkpoint-abcdefgh').write_text('')
    (work_dir / '.keep').write_text('')
    runner = build(work_dir, resume=True, train_cfg__max_iters=3)
    runner.train()
    hidden = {p.name for p in work_dir.glob('.*')}
    assert hidden == {'.keep'}
    assert read_checkpoint(str(work_dir / 'iter_3.pth'))['meta']['iter'] == 3


@pytest.mark.parametrize('keep', [1, 2, -1])
def test_the_newest_are_kept_through_a_resume(build, tmp_path, keep):
    changes = dict(
        default_hooks__checkpoint__interval=1,
        default_hooks__checkpoint__max_keep_ckpts=keep,
    )
    build(train_cfg__max_iters=3, **changes).train()
    build(train_cfg__max_iters=5, resume=True, **changes).train()
    names = sorted(p.name for p in (tmp_path / 'work').glob('iter_*.pth'))
    newest = [1, 2, 3, 4, 5][-keep if keep > 0 else 0 :]
    assert names == [f'iter_{i}.pth' for i in newest]
    pointer = (tmp_path / 'work' / 'last_checkpoint').read_text()
    assert pointer.endswith('iter_5.pth')


def test_the_best_checkpoint_still_works_for_who_asks(build, tmp_path):
    build(
        default_hooks__checkpoint__save_best='day/mIoU',
        default_hooks__checkpoint__rule='greater',
        default_hooks__checkpoint__max_keep_ckpts=1,
        train_cfg__val_interval=2,
    ).train()
    names = {p.name for p in (tmp_path / 'work').glob('*.pth')}
    assert 'iter_4.pth' in names
    assert len([n for n in names if n.startswith('best_day_mIoU')]) == 1


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / 'x.pth'
    backend = AtomicLocalBackend()
    backend.put(b'old', path)
    backend.put_text('text', tmp_path / 'deep' / 't.txt')
    assert (tmp_path / 'deep' / 't.txt').read_text() == 'text'

    def full(source, target):
        raise OSError('no space left on device')

    monkeypatch.setattr(os, 'replace', full)
    with pytest.raises(OSError, match='no space'):
        backend.put(b'new', path)
    assert path.read_bytes() == b'old'
    assert sorted(os.listdir(tmp_path)) == ['deep', 'x.pth']


def test_what_is_saved_is_what_mmengine_saves(build, tmp_path):
    states = []
    for kind in ('SafeCheckpointHook', 'CheckpointHook'):
        build(tmp_path / kind, default_hooks__checkpoint__type=kind).train()
        states.append(read_checkpoint(str(tmp_path / kind / 'iter_4.pth')))
    assert set(states[0]) == set(states[1])
    for key, value in states[1]['state_dict'].items():
        assert torch.equal(states[0]['state_dict'][key], value)
