"""A small benchmark, and a few scenes in every style."""

import pytest

from clouds_mmseg.toycity import STYLES, render_scene, write_toycity

SMALL = {
    'num_source': 4,
    'num_source_val': 2,
    'num_target': 2,
    'size': (96, 48),
    'seed': 3,
}


@pytest.fixture
def small():
    """Arguments of a benchmark that is written in a second."""
    return dict(SMALL)


@pytest.fixture(scope='session')
def toycity(tmp_path_factory):
    """A complete small benchmark; not to be changed."""
    root = tmp_path_factory.mktemp('toycity')
    assert write_toycity(root, **SMALL, workers=1)
    return root


@pytest.fixture(scope='session')
def scenes():
    """By style, five pairs of image and label of the same five seeds."""
    return {
        style: [render_scene(seed, style) for seed in range(5)]
        for style in STYLES
    }
