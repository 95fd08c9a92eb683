import json
import os
import socket
import subprocess

import numpy as np
import pytest
import torch
from mmengine.hooks import Hook
from mmseg.models import EncoderDecoder
from mmseg.registry import HOOKS
from PIL import Image


def results_of(work_dir):
    return json.loads((work_dir / 'results.json').read_text())


def free_port():
    """A port that no other run on this machine has."""
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        return probe.getsockname()[1]


def test_train_resume_and_test(run_tool, tiny_config, tmp_path, capsys):
    work_dir = tmp_path / 'work'
    train = ('train.py', tiny_config, '--work-dir', work_dir)
    assert run_tool(*train, '--amp') == 0
    assert (work_dir / 'last_checkpoint').is_file()
    assert results_of(work_dir)['iteration'] == 4
    assert "type='BF16OptimWrapper'" in results_of(work_dir)['config']['text']

    more = ('--resume', '--cfg-options', 'train_cfg.max_iters=6')
    # Another precision from here on is another run, unless that is meant.
    assert run_tool(*train, *more) == 1
    accept = 'resume_cfg.accept=[optim_wrapper.type]'
    assert accept.split('=')[0] in capsys.readouterr().err
    assert run_tool(*train, *more, accept) == 0
    assert results_of(work_dir)['resumed_with_changes']
    assert results_of(work_dir)['iteration'] == 6
    validated = results_of(work_dir)['metrics']

    checkpoint = work_dir / 'iter_6.pth'
    assert (
        run_tool(
            'test.py',
            tiny_config,
            checkpoint,
            *('--work-dir', tmp_path / 'test'),
            *('--out', tmp_path / 'out'),
            *('--show-dir', tmp_path / 'show'),
            *('--protocol', 'native'),
        )
        == 0
    )
    tested = results_of(tmp_path / 'test')
    assert tested['phase'] == 'test'
    assert tested['metrics'] == pytest.approx(validated, nan_ok=True)
    assert str(tmp_path / 'test' / 'results.json') in capsys.readouterr().out
    mask = np.asarray(Image.open(tmp_path / 'out' / 'dusk' / '002.png'))
    assert mask.shape == (32, 32)
    assert mask.max() < 3
    assert len(list((tmp_path / 'show').glob('**/*.png'))) == 7


def test_mixed_precision_test(run_tool, tiny_config, tmp_path, monkeypatch):
    work_dir = tmp_path / 'work'
    assert run_tool('train.py', tiny_config, '--work-dir', work_dir) == 0
    checkpoint = work_dir / 'iter_4.pth'
    seen = set()
    test_step = EncoderDecoder.test_step

    def watched(self, data):
        seen.add(
            torch.is_autocast_enabled('cpu')
            and torch.get_autocast_dtype('cpu')
        )
        return test_step(self, data)

    monkeypatch.setattr(EncoderDecoder, 'test_step', watched)
    before = torch.get_autocast_dtype('cuda')
    command = ('test.py', tiny_config, checkpoint, '--work-dir', work_dir)
    assert run_tool(*command, '--amp') == 0
    assert seen == {torch.bfloat16}
    assert torch.get_autocast_dtype('cuda') == torch.bfloat16
    torch.set_autocast_dtype('cuda', before)
    assert run_tool(*command) == 0
    assert seen == {torch.bfloat16, False}


def test_augmented_test(run_tool, tiny_config, tmp_path):
    work_dir = tmp_path / 'work'
    assert run_tool('train.py', tiny_config, '--work-dir', work_dir) == 0
    plain = results_of(work_dir)['metrics']
    checkpoint = work_dir / 'iter_4.pth'
    command = ('test.py', tiny_config, checkpoint, '--work-dir', work_dir)
    assert run_tool(*command, '--tta') == 0
    mirrored = results_of(work_dir)['metrics']
    assert mirrored.keys() == plain.keys()
    assert mirrored['mean_mIoU'] != plain['mean_mIoU']


def test_data_can_be_checked_without_training(
    run_tool, tiny_config, tmp_path, capsys
):
    work_dir = tmp_path / 'work'
    command = ('train.py', tiny_config, '--work-dir', work_dir)
    assert run_tool(*command, '--check-data') == 0
    assert 'train day' in capsys.readouterr().out
    assert not work_dir.exists()


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (['nowhere.pth'], 'nowhere.pth'),
        (['nowhere.pth', '--protocol', 'odd'], "protocol 'odd'"),
        (['x.pth', '--data-root', '/no/where'], '--data-root /no/where'),
    ],
)
def test_mistakes_are_one_line(
    run_tool, tiny_config, capsys, options, message
):
    assert run_tool('test.py', tiny_config, *options) == 1
    err = capsys.readouterr().err.splitlines()
    errors = [line for line in err if line.startswith('error: ')]
    assert len(errors) == 1
    assert message in errors[0]
    assert not any('Traceback' in line for line in err)


@pytest.mark.parametrize(
    ('option', 'message'),
    [
        # Constructors of this package,
        (
            'model.decode_head={_delete_: True, type: CLOUDSHead, '
            'in_channels: [8, 16, 32, 64], num_classes: 3, threshold: 2}',
            'decode_head.threshold must be between 0 and 1, got 2',
        ),
        (
            'custom_hooks=[{type: PredictionPicturesHook, width: 0}]',
            'width must be positive, got 0',
        ),
        # of MMSegmentation and of torch,
        (
            'model.backbone.depth=7',
            'ResNet(depth=7, stem_channels=8, base_channels=8, out_indices',
        ),
        (
            'optim_wrapper.optimizer.lr=-1',
            'cannot be built: ValueError: Invalid learning rate: -1',
        ),
        # and what is no constructor's business.
        (
            'train_dataloader.batch_size=2.5',
            'train_dataloader.batch_size mus',
        ),
    ],
)
def test_settings_that_cannot_be_are_one_message(
    run_tool, tiny_config, tmp_path, capsys, option, message
):
    status = run_tool(
        'train.py',
        *(tiny_config, '--work-dir', tmp_path / 'work'),
        *('--cfg-options', option),
    )
    assert status == 1
    err = capsys.readouterr().err
    assert 'error: ' in err and message in err
    assert 'Traceback' not in err


def test_a_bug_keeps_its_traceback(run_tool, tiny_config, tmp_path):
    """Whatever its type is, and wherever the raising line stands."""

    class Broken(Hook):
        def before_train(self, runner):
            raise ValueError('a bug')

    HOOKS.register_module(name='BrokenForATest', module=Broken)
    try:
        with pytest.raises(ValueError, match='a bug'):
            run_tool(
                'train.py',
                *(tiny_config, '--work-dir', tmp_path / 'work'),
                *('--cfg-options', 'custom_hooks=[{type: BrokenForATest}]'),
            )
    finally:
        del HOOKS.module_dict['BrokenForATest']


def test_two_processes_train_and_test(
    repo_root, run_tool, warm_python, tiny_config, tmp_path
):
    """The shell scripts, torchrun, gloo, and equal numbers from one."""
    # Notes what a script starts; that is then run in forks.
    python, noted = tmp_path / 'python', tmp_path / 'words'
    python.write_text(f'#!/bin/sh\nprintf "%s\\0" "$@" > {noted}\n')
    python.chmod(0o755)
    environment = dict(
        os.environ,
        PYTHON=str(python),
        PORT=str(free_port()),
        CUDA_VISIBLE_DEVICES='',
    )

    def bash(name, *words):
        script = repo_root / 'tools' / name
        subprocess.run(
            ['bash', script, *map(str, words)], env=environment, check=True
        )
        done = warm_python.run(
            repo_root / 'tests' / 'warm_torchrun.py',
            *noted.read_text().split('\0')[:-1],
            env=environment,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout

    work_dir = tmp_path / 'work'
    out = bash(
        'dist_train.sh',
        *(tiny_config, 2, '--work-dir', work_dir),
        *('--cfg-options', 'default_hooks.logger.interval=1'),
        # As the zoo has it; without GPUs it turns into BN.
        'model.backbone.norm_cfg.type=SyncBN',
    )
    assert '2 processes' in out
    # One process writes the log.
    assert out.count('The run:') == 1
    assert results_of(work_dir)['processes'] == 2
    checkpoint = work_dir / 'iter_4.pth'
    bash(
        'dist_test.sh',
        *(tiny_config, checkpoint, 2, '--work-dir', tmp_path / 'two'),
    )
    two = results_of(tmp_path / 'two')
    single = ('--work-dir', tmp_path / 'one')
    assert run_tool('test.py', tiny_config, checkpoint, *single) == 0
    one = results_of(tmp_path / 'one')
    assert two['metrics'] == pytest.approx(one['metrics'], nan_ok=True)
    assert two['domains'] == one['domains']
    assert (two['processes'], one['processes']) == (2, 1)


@pytest.mark.parametrize(
    'name', ['dist_train.sh', 'dist_test.sh', 'slurm_train.sh']
)
def test_scripts_say_how_they_are_used(repo_root, name):
    done = subprocess.run(
        ['bash', repo_root / 'tools' / name], capture_output=True, text=True
    )
    assert done.returncode == 2
    assert f'{name} CONFIG' in done.stderr


def test_a_training_that_diverges_fails_and_says_why(
    run_tool, tiny_config, tmp_path, capsys
):
    work_dir = tmp_path / 'work'
    status = run_tool(
        'train.py',
        *(tiny_config, '--work-dir', work_dir, '--cfg-options'),
        'optim_wrapper.optimizer.lr=1e20',
        'param_scheduler=[]',
        'default_hooks.checkpoint.interval=1',
    )
    assert status == 1
    said = capsys.readouterr()
    assert said.err.startswith('error: ')
    assert 'not finite' in said.err
    assert 'Traceback' not in said.err
    # Said once on the terminal, and in the log as well.
    assert 'Stopped: ' not in said.out
    (log,) = work_dir.glob('*/*.log')
    assert 'Stopped: ' in log.read_text()
    assert not (work_dir / 'results.json').exists()


def test_a_damaged_checkpoint_fails_and_is_named(
    run_tool, tiny_config, tmp_path, capsys
):
    work_dir = tmp_path / 'work'
    assert run_tool('train.py', tiny_config, '--work-dir', work_dir) == 0
    state = torch.load(work_dir / 'iter_4.pth', weights_only=False)
    state['state_dict']['decode_head.conv_seg.weight'][:] = torch.nan
    path = tmp_path / 'damaged.pth'
    torch.save(state, path)
    capsys.readouterr()
    status = run_tool(
        'test.py', tiny_config, path, '--work-dir', tmp_path / 'test', '--tta'
    )
    assert status == 1
    said = capsys.readouterr()
    assert said.err.startswith(f'error: the weights of {path} are not finite')
    assert 'decode_head.conv_seg.weight (24 of 24 values)' in said.err
    assert 'mIoU' not in said.out
