"""An image bank of which some images are spoilt."""

from types import SimpleNamespace

import numpy as np
import pytest
from filter_helpers import scene, write_bank
from mmengine.registry import init_default_scope


@pytest.fixture(autouse=True)
def scope():
    """Pipelines are built by the names of mmseg's registries."""
    init_default_scope('mmseg')


@pytest.fixture
def checkpoint(tmp_path):
    path = tmp_path / 'model.pth'
    path.write_bytes(b'weights')
    return path


@pytest.fixture
def spoilt(tmp_path):
    """Eight images: 2 has another label, 5 is blank, 6 is a copy of 4."""
    pairs = [scene(seed) for seed in range(8)]
    pairs[2] = scene(2, label_seed=99)
    grey = np.full_like(pairs[5][0], 90)
    images = [image for image, _ in pairs]
    images[5] = (
        grey + np.arange(grey.size).reshape(grey.shape).astype(np.uint8) % 2
    )
    images[6] = np.clip(images[4].astype(int) + 3, 0, 255).astype(np.uint8)
    labels = [label for _, label in pairs]
    labels[6] = labels[4].copy()
    labels[0][:2] = 255
    return SimpleNamespace(
        root=write_bank(tmp_path / 'bank', images, labels=labels),
        images=images,
        labels=labels,
    )
