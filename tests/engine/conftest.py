"""Runners on a model of seconds; see tests/tiny_run.py."""

import pytest
from tiny_run import read_config, write_config, write_data

from clouds_mmseg.cli.config import build_runner


@pytest.fixture(scope='session')
def tiny_data(tmp_path_factory):
    """Folder with day_train, day_val and dusk_val. Not to be changed."""
    return write_data(tmp_path_factory.mktemp('tiny_data'))


@pytest.fixture
def tiny_config(tmp_path, tiny_data):
    """Path of a config file."""
    return write_config(tmp_path / 'tiny.py', tiny_data)


@pytest.fixture
def build(tmp_path, tiny_config):
    """Build a runner; keyword arguments change the config."""

    def build_one(work_dir=None, **changes):
        work_dir = work_dir or tmp_path / 'work'
        # A fifth of the run would be drawing.
        hooks = [dict(type='ProgressHook'), dict(type='ResultsHook')]
        changes.setdefault('custom_hooks', hooks)
        return build_runner(read_config(tiny_config, work_dir, **changes))

    return build_one


@pytest.fixture(scope='session')
def trained(tmp_path_factory, tiny_data):
    """Work dir of a run of four iterations. Not to be changed."""
    folder = tmp_path_factory.mktemp('trained')
    config = write_config(folder / 'tiny.py', tiny_data)
    build_runner(read_config(config, folder / 'work')).train()
    return folder / 'work'
