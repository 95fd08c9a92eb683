"""A real SAM with a tiny random image encoder, and real photographs."""

import cv2
import numpy as np
import pytest
import torch
from tiny_sam import build_tiny_sam


@pytest.fixture
def tiny_vit_b(monkeypatch):
    """Let segment-anything build the tiny SAM under the name vit_b."""
    registry = pytest.importorskip('segment_anything').sam_model_registry
    monkeypatch.setitem(registry, 'vit_b', build_tiny_sam)


@pytest.fixture(scope='session')
def tiny_weights(tmp_path_factory):
    """Weights of the tiny SAM, as a file."""
    pytest.importorskip('segment_anything')
    path = tmp_path_factory.mktemp('sam') / 'tiny.pth'
    with torch.random.fork_rng():
        torch.manual_seed(0)
        torch.save(build_tiny_sam().state_dict(), path)
    return path


@pytest.fixture(scope='session')
def photographs(camvid_dir):
    """Two photographs (3, 180, 240) uint8 with their labels (180, 240)."""
    pairs = []
    for path in sorted(camvid_dir.glob('images/*/*.png'))[::24]:
        label_path = str(path).replace('images', 'labels')
        image = cv2.imread(str(path))[::2, ::2, ::-1]
        label = cv2.imread(label_path, cv2.IMREAD_UNCHANGED)[::2, ::2]
        pairs.append(
            (
                torch.from_numpy(image.copy()).permute(2, 0, 1),
                torch.from_numpy(label.astype(np.int64)),
            )
        )
    return pairs
