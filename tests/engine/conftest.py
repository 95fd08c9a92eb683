"""Runners on a model of seconds; see tests/tiny_run.py."""

import functools

import mmengine.runner.runner
import pytest
import yapf.yapflib.yapf_api
from tiny_run import read_config, write_config, write_data

from clouds_mmseg.cli.config import build_runner


@pytest.fixture(scope='session', autouse=True)
def quick_runners():
    """Format a config and ask for compilers once: half of a runner's time."""
    formatted, format_code = {}, yapf.yapflib.yapf_api.FormatCode

    def format_once(text, **kwargs):
        if text not in formatted:
            formatted[text] = format_code(text, **kwargs)
        return formatted[text]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(yapf.yapflib.yapf_api, 'FormatCode', format_once)
        patch.setattr(
            mmengine.runner.runner,
            'collect_env',
            functools.cache(mmengine.runner.runner.collect_env),
        )
        yield


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
        return build_runner(read_config(tiny_config, work_dir, **changes))

    return build_one


@pytest.fixture(scope='session')
def trained(tmp_path_factory, tiny_data):
    """Work dir of a run of four iterations. Not to be changed."""
    folder = tmp_path_factory.mktemp('trained')
    config = write_config(folder / 'tiny.py', tiny_data)
    build_runner(read_config(config, folder / 'work')).train()
    return folder / 'work'
