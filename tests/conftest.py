"""Fixtures that more than one part of the suite uses."""

import functools
import gc
import os
import sys
from pathlib import Path

import pytest

# Must be set before torch's first import in the test process.
os.environ.setdefault('HF_HUB_OFFLINE', '1')
# Compiling a corruption takes seconds, running it on a few pixels does not.
os.environ.setdefault('NUMBA_DISABLE_JIT', '1')

ROOT = Path(__file__).resolve().parents[1]
# CamVid's licence keeps it out of the repository.
CAMVID = (
    os.environ.get('CAMVID_ROOT', ''),
    ROOT / 'data' / 'camvid_mini',
    ROOT.parent / 'shared' / 'data' / 'camvid_mini',
)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup():
    """Begin each test with the same random numbers of torch, in any order.

    Before the fixtures, so that those of a module do not depend on the test
    that asks for them first. pytest-randomly does so for random and numpy.
    """
    if 'torch' in sys.modules:
        sys.modules['torch'].manual_seed(0)


def pytest_collection_finish():
    """Keep all that was imported out of the search for garbage.

    mmengine searches for each dataset that is built, which takes a third of a
    second with half a million objects of the imported packages.
    """
    gc.collect()
    gc.freeze()


@pytest.fixture(scope='session', autouse=True)
def _zoo_read_once():
    """Keep the zoo's index: mmengine reads all metafiles for each config."""
    if 'mmengine' not in sys.modules:
        yield
        return
    utils = sys.modules['mmengine'].config.utils
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(utils, 'load', functools.cache(utils.load))
        yield


def pytest_terminal_summary(terminalreporter, config):
    """Say how the order and the random numbers are had again."""
    seed = config.getoption('randomly_seed', None)
    if seed is not None:
        terminalreporter.write_line(f'repeat with --randomly-seed={seed}')


@pytest.fixture(scope='session')
def reference_dir():
    """Folder of outputs recorded from other implementations."""
    return ROOT / 'tests' / 'data' / 'reference'


@pytest.fixture(scope='session')
def camvid_dir():
    """Folder of the 36 real driving photographs."""
    for path in filter(None, CAMVID):
        if (Path(path) / 'images').is_dir():
            return Path(path)
    pytest.skip(
        'needs the photographs of CamVid: CAMVID_ROOT=FOLDER, or '
        'data/camvid_mini'
    )


@pytest.fixture(scope='session')
def repo_root():
    """Root of the checkout: configs/ and tools/ are found from here."""
    return ROOT


@pytest.fixture(autouse=True)
def no_folder_is_chosen():
    """What an option of a tool has set for the process ends with the test."""
    yield
    folders = sys.modules.get('clouds_mmseg.utils.data_root')
    if folders is not None:
        folders._chosen.clear()


@pytest.fixture
def pretrained_folder(tmp_path, monkeypatch):
    """The folder where alone weights are looked for, without network."""
    monkeypatch.setenv('HF_HUB_OFFLINE', '1')
    monkeypatch.setenv('CLOUDS_PRETRAINED_DIR', str(tmp_path))
    monkeypatch.setattr('torch.hub._hub_dir', str(tmp_path / 'hub'))
    return tmp_path


@pytest.fixture(scope='session')
def promptable(tmp_path_factory):
    """Folder of a tiny model of a family of transformers. Not to change."""
    from tiny_promptable import write_model

    @functools.cache
    def folder(family):
        return write_model(tmp_path_factory.mktemp(family), family)

    return folder
