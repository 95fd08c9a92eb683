"""Small trees on disk in the layouts of the published data sets."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from mmengine.registry import init_default_scope
from PIL import Image

import clouds_mmseg  # noqa: F401

HEIGHT, WIDTH = 12, 20


@pytest.fixture(autouse=True)
def _scope(monkeypatch):
    monkeypatch.delenv('CLOUDS_DATA_ROOT', raising=False)
    init_default_scope('mmseg')


def write_image(path, height=HEIGHT, width=WIDTH, seed=0):
    """Write a random RGB picture in the format of the suffix."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(
        0, 256, (height, width, 3), dtype=np.uint8
    )
    Image.fromarray(pixels).save(path)
    return pixels


def label_of(ids):
    """Lay ids out over a label map, so that each occurs."""
    return np.resize(np.array(ids, np.uint16), (HEIGHT, WIDTH))


def write_label(path, label, kind='grey'):
    """Write ids as grey, palette or 16-bit colour PNG."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    if kind == 'synthia':
        # File order R, G, B = class, instance, nothing; OpenCV takes B, G, R.
        pixels = np.zeros((*label.shape, 3), np.uint16)
        pixels[..., 2] = label
        pixels[..., 1] = 40000
        assert cv2.imwrite(str(path), pixels)
        return
    image = Image.fromarray(label.astype(np.uint8))
    if kind == 'palette':
        # Colours unlike the indices: whoever reads colours is found out.
        image.putpalette([(7 * i + 99) % 256 for i in range(768)])
    image.save(path)


@pytest.fixture
def files():
    """The writers of this module."""

    class Files:
        image = staticmethod(write_image)
        label = staticmethod(write_label)
        label_of = staticmethod(label_of)
        shape = (HEIGHT, WIDTH)

    return Files


@pytest.fixture
def pairs(tmp_path):
    """Three images and labels in GTA5's layout, all of them right."""
    for number in range(3):
        name = f'{number:05d}.png'
        write_image(tmp_path / 'images' / name, seed=number)
        write_label(
            tmp_path / 'labels' / name, label_of([7, 8, 26, 0]), 'palette'
        )
    return tmp_path
