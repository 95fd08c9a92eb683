"""A trained checkpoint of the tiny run, and its images."""

import pytest
from tiny_run import read_config, write_config, write_data

from clouds_mmseg.cli.config import build_runner


@pytest.fixture(scope='session')
def tiny_data(tmp_path_factory):
    return write_data(tmp_path_factory.mktemp('data'))


@pytest.fixture(scope='session')
def tiny_checkpoint(tmp_path_factory, tiny_data):
    """Checkpoint after two iterations; its config lies inside."""
    folder = tmp_path_factory.mktemp('predict')
    write_config(folder / 'tiny.py', tiny_data)
    cfg = read_config(
        folder / 'tiny.py', folder / 'work', train_cfg__max_iters=2
    )
    build_runner(cfg).train()
    return folder / 'work' / 'iter_2.pth'
