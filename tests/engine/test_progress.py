import io
import sys

import pytest

from clouds_mmseg.engine.hooks.progress import ProgressHook, is_interactive


@pytest.fixture
def terminal(monkeypatch):
    """A person watches; what is drawn is found in standard error."""
    monkeypatch.setattr(
        'clouds_mmseg.engine.hooks.progress.is_interactive', lambda: True
    )
    monkeypatch.setenv('COLUMNS', '100')


def hook_of(runner):
    return next(h for h in runner._hooks if isinstance(h, ProgressHook))


def test_a_terminal_shows_rate_time_and_loss(build, capsys, terminal):
    runner = build(default_hooks__logger__interval=1)
    runner.train()
    out, drawn = capsys.readouterr()
    assert '4/4' in drawn
    assert 'loss=' in drawn
    assert 'it/s' in drawn or 's/it' in drawn
    assert '3/3' in drawn  # the batches of the validation
    # The line replaces the lines of the log, not the tables.
    assert 'Iter(train)' not in out
    assert 'mean of 2' in out
    assert 'Iter(train)' in open(runner.logger.log_file).read()


def test_the_terminal_is_given_back(build, capsys, terminal):
    runner = build()
    streams = [h.stream for h in runner.logger.handlers]
    runner.train()
    assert [h.stream for h in runner.logger.handlers] == streams
    assert hook_of(runner)._bars == []
    runner.logger.info('Iter(train) again')
    assert 'Iter(train) again' in capsys.readouterr().out


def test_a_file_gets_lines_and_no_bar(build, capfd):
    build(default_hooks__logger__interval=1).train()
    captured = capfd.readouterr()
    assert 'Iter(train) [3/4]' in captured.out
    assert 'eta: ' in captured.out
    assert '%|' not in captured.err


def test_a_resumed_run_begins_where_it_was(build, trained, terminal, capsys):
    runner = build(resume=str(trained / 'iter_4.pth'), train_cfg__max_iters=5)
    runner.train()
    drawn = capsys.readouterr().err
    assert '4/5' in drawn.split('\r')[1]
    assert '5/5' in drawn


def test_tests_are_counted_too(build, terminal, capsys):
    build().test()
    assert 'test: 100%' in capsys.readouterr().err


def test_other_processes_are_silent(build, terminal, monkeypatch, capsys):
    monkeypatch.setattr(
        'clouds_mmseg.engine.hooks.progress.is_main_process', lambda: False
    )
    build().test()
    assert '%|' not in capsys.readouterr().err


def test_it_can_be_switched_off(build, terminal, capsys):
    build(custom_hooks=[dict(type='ProgressHook', enabled=False)]).test()
    assert '%|' not in capsys.readouterr().err


@pytest.mark.parametrize('watched', [True, False])
def test_a_terminal_is_asked_whether_it_is_one(monkeypatch, watched):
    stream = io.StringIO()
    stream.isatty = lambda: watched
    monkeypatch.setattr(sys, 'stderr', stream)
    assert is_interactive() is watched
