"""Fixtures that more than one part of the suite uses."""

import os
from pathlib import Path

import pytest

# Must be set before torch's first import in the test process.
os.environ.setdefault('HF_HUB_OFFLINE', '1')
# Compiling a corruption takes seconds, running it on a few pixels does not.
os.environ.setdefault('NUMBA_DISABLE_JIT', '1')

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / 'shared'


def _shared(name):
    path = SHARED / name
    if not path.exists():
        pytest.skip(f'{name} of the shared test data is not at {SHARED}')
    return path


@pytest.fixture(scope='session')
def reference_dir():
    """Folder of outputs recorded from other implementations."""
    return _shared('reference')


@pytest.fixture(scope='session')
def camvid_dir():
    """Folder of the 36 real driving photographs."""
    return _shared('data/camvid_mini')


@pytest.fixture(scope='session')
def repo_root():
    """Root of the checkout: configs/ and tools/ are found from here."""
    return ROOT


@pytest.fixture
def pretrained_folder(tmp_path, monkeypatch):
    """The folder where alone weights are looked for, without network."""
    monkeypatch.setenv('HF_HUB_OFFLINE', '1')
    monkeypatch.setenv('CLOUDS_PRETRAINED_DIR', str(tmp_path))
    monkeypatch.setattr('torch.hub._hub_dir', str(tmp_path / 'hub'))
    return tmp_path
