"""A set in GTA5's layout that verification has nothing against."""

import numpy as np
import pytest

from clouds_mmseg.data_tools.verify import Task, verify
from clouds_mmseg.datasets import GTA5Dataset


@pytest.fixture
def gta(pairs):
    """Make the task of verifying ``pairs``; three images that differ."""

    def task(name='gta5 train', training=True, **kwargs):
        dataset = GTA5Dataset(
            **dict(data_root=str(pairs), lazy_init=True) | kwargs
        )
        return Task(name, dataset, training)

    return task


@pytest.fixture
def check(gta):
    """Verify ``pairs`` in this process; returns its only report."""

    def run(**kwargs):
        (report,) = verify([gta(**kwargs)], workers=1, command='the command')
        return report

    return run


@pytest.fixture
def more(pairs, files):
    """Add good pairs until there are ``count``."""

    def add(count):
        for number in range(3, count):
            name = f'{number:05d}.png'
            files.image(pairs / 'images' / name, seed=number)
            files.label(pairs / 'labels' / name, np.full(files.shape, 7))

    return add


def cut(path, keep=60):
    path.write_bytes(path.read_bytes()[:keep])


@pytest.fixture
def truncate():
    """Cut a file off."""
    return cut
