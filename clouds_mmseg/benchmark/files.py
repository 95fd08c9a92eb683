"""Image files of the published sizes, to load."""

from pathlib import Path

import cv2
import numpy as np

# Storage -> suffix and how OpenCV is to write it; all of them are lossless.
STORAGES = {
    'png': ('.png', (cv2.IMWRITE_PNG_COMPRESSION, 6)),
    'png-fast': ('.png', (cv2.IMWRITE_PNG_COMPRESSION, 1)),
    'webp': ('.webp', (cv2.IMWRITE_WEBP_QUALITY, 101)),
    'bmp': ('.bmp', ()),
}
# Width and height of the published images.
SETS = {
    'gta5': (1914, 1052),
    'synthia': (1280, 760),
    'cityscapes': (2048, 1024),
    'generated': (768, 768),
}
# Sensor noise such that a PNG takes about 9 bits a pixel, as GTA5's do.
_GRAIN = 1.5


def picture(size, seed):
    """Draw something of many scales, with grain.

    Args:
        size (tuple[int, int]): Width and height.
        seed (int): Of what is drawn.

    Returns:
        np.ndarray: (H, W, 3) uint8.
    """
    rng = np.random.default_rng(seed)
    total = np.full((size[1], size[0], 3), 110, np.float32)
    for cells in (4, 16, 64):
        noise = rng.normal(size=(cells, cells, 3)).astype(np.float32)
        total += 30 * cv2.resize(noise, size, interpolation=cv2.INTER_CUBIC)
    total += rng.normal(0, _GRAIN, total.shape)
    return total.clip(0, 255).astype(np.uint8)


def label(size, classes, seed):
    """Draw regions of classes.

    Args:
        size (tuple[int, int]): Width and height.
        classes (int): Ids are below this.
        seed (int): Of what is drawn.

    Returns:
        np.ndarray: (H, W) uint8.
    """
    cells = np.random.default_rng(seed).integers(classes, size=(24, 32))
    return cv2.resize(
        cells.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST
    )


def write_set(folder, size, storage, *, count, classes=19):
    """Write a folder as ``FolderDataset`` reads it.

    Args:
        folder (Path): Receives ``images`` and ``labels``.
        size (tuple[int, int]): Width and height.
        storage (str): One of :data:`STORAGES`.
        count (int): Number of images.
        classes (int): Number of classes.

    Returns:
        int: Mean number of bytes of an image file.
    """
    suffix, options = STORAGES[storage]
    folder, total = Path(folder), 0
    for name in ('images', 'labels'):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for index in range(count):
        path = folder / 'images' / f'{index:04d}{suffix}'
        cv2.imwrite(str(path), picture(size, index), options)
        total += path.stat().st_size
        cv2.imwrite(
            str(folder / 'labels' / f'{index:04d}.png'),
            label(size, classes, index),
        )
    return total // count
