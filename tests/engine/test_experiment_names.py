"""Runs that begin within one second, in one process or one folder."""

import itertools
import time
from pathlib import Path

import pytest
from tiny_run import read_config

from clouds_mmseg.cli.config import build_runner

# A second of its own for each test.
_seconds = itertools.count(1_700_000_000)


@pytest.fixture
def second(monkeypatch):
    """Stop the clock."""
    now = next(_seconds)
    monkeypatch.setattr(time, 'time', lambda: float(now))
    return time.strftime('%Y%m%d_%H%M%S', time.localtime(now))


@pytest.fixture
def build_now(tiny_config, tmp_path, second):
    """Build runners within the same second, as the tools do."""

    def build_one(folder, **changes):
        cfg = read_config(tiny_config, tmp_path / folder, **changes)
        if 'experiment_name' not in changes:
            cfg.pop('experiment_name')
        return build_runner(cfg)

    return build_one


def log_of(runner):
    return Path(runner.logger.log_file)


@pytest.mark.parametrize('names', [{}, dict(experiment_name='mine')])
@pytest.mark.parametrize('folders', ['ab', 'aa'])
def test_two_runs_of_one_second_are_two(build_now, names, folders):
    first, second = (build_now(folder, **names) for folder in folders)
    assert first.experiment_name != second.experiment_name
    assert first.logger is not second.logger
    assert first.message_hub is not second.message_hub
    assert first.visualizer is not second.visualizer
    for number, runner in enumerate((first, second)):
        runner.logger.info(f'word {number}')
        log = log_of(runner)
        assert log.parent.parent == Path(runner.work_dir)
        assert log.name == f'{log.parent.name}.log'
        assert f'word {number}' in log.read_text()
        assert f'word {1 - number}' not in log.read_text()
    assert log_of(second).stem == f'{log_of(first).stem}_1'


def test_a_folder_of_another_process_is_left_alone(
    build_now, tmp_path, second
):
    taken = tmp_path / 'a' / second
    taken.mkdir(parents=True)
    runner = build_now('a')
    assert not list(taken.iterdir())
    assert log_of(runner).stem == f'{second}_1'


def test_a_run_alone_keeps_the_name_that_mmengine_gives(build_now, second):
    runner = build_now('a')
    assert log_of(runner).stem == second
    assert runner.experiment_name == f'tiny_{second}'
