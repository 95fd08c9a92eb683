"""Run the tools on a model of seconds; see tests/tiny_run.py."""

import runpy
import sys

import pytest
from tiny_run import write_config, write_data

_numbers = iter(range(10**6))


@pytest.fixture(scope='session')
def tool_data(tmp_path_factory):
    """Folder with day_train, day_val and dusk_val. Not to be changed."""
    return write_data(tmp_path_factory.mktemp('tool_data'))


@pytest.fixture(scope='session')
def trained(tmp_path_factory, tool_data):
    """Config and checkpoint of a run of four iterations."""
    from tiny_run import read_config, write_config

    from clouds_mmseg.cli.config import build_runner

    folder = tmp_path_factory.mktemp('published')
    config = write_config(folder / 'tiny.py', tool_data)
    build_runner(read_config(config, folder / 'work')).train()
    return config, folder / 'work' / 'iter_4.pth'


@pytest.fixture
def tiny_config(tmp_path, tool_data):
    """Path of a config file; its name is unique, and so is the run's."""
    return write_config(tmp_path / f'tool_{next(_numbers)}.py', tool_data)


@pytest.fixture
def run_tool(repo_root, monkeypatch):
    """Run tools/NAME in this process; returns the exit status."""
    monkeypatch.setenv('LOCAL_RANK', '0')

    def run(name, *words):
        path = str(repo_root / 'tools' / name)
        monkeypatch.setattr(sys, 'argv', [path, *map(str, words)])
        try:
            runpy.run_path(path, run_name='__main__')
        except SystemExit as leave:
            return leave.code or 0
        return 0

    return run
