"""Refinement of a pseudo label by SAM: ours, and the plain one beside."""

from pathlib import Path
from types import ModuleType

import numpy as np
import torch
from scipy import ndimage

from benchmark.measure import BenchmarkCase
from benchmark.parts import TimedMethod
from benchmark.random_sam import RandomSAMRefiner
from benchmark.report import OURS, PLAIN
from clouds_mmseg.refine.arguments import as_rgb_array
from clouds_mmseg.utils.hashing import digest_array

# What the timings have: 39 components in an image of 768 x 768.
ROWS, COLUMNS, COMPONENTS = 6, 7, 39
EPOCHS = ('first epoch', 'second epoch', 'second epoch, borders moved')
# How far borders move between two epochs, pixels.
DRIFT = 2.0


def make_label(size: int, seed: int = 0) -> np.ndarray:
    """Draw a label map of 39 components with wavy borders.

    Args:
        size: Side of the square, pixels.
        seed: Of the waves.

    Returns:
        (size, size) int64; three cells are ignored.
    """
    cells = (np.arange(ROWS * COLUMNS) * 7 % 19).reshape(ROWS, COLUMNS)
    cells.flat[COMPONENTS:] = 255
    y, x = np.mgrid[:size, :size] / size
    rng = np.random.default_rng(seed)
    a, b = rng.random(2) * 6
    y, x = y + 0.01 * np.sin(9 * x + a), x + 0.01 * np.sin(9 * y + b)
    rows = np.clip(y * ROWS, 0, ROWS - 1).astype(int)
    columns = np.clip(x * COLUMNS, 0, COLUMNS - 1).astype(int)
    return cells[rows, columns].astype(np.int64)


def drifted(label: np.ndarray, seed: int) -> np.ndarray:
    """Move the borders of a label map a little, each place otherwise.

    Args:
        label: (H, W) int64.
        seed: Of the drift.

    Returns:
        (H, W) int64.
    """
    rng = np.random.default_rng(seed)
    places = np.mgrid[: label.shape[0], : label.shape[1]].astype(float)
    for axis in places:
        noise = ndimage.zoom(
            rng.normal(size=(9, 9)), np.array(label.shape) / 9, order=1
        )
        axis += DRIFT * noise / np.abs(noise).max()
    return ndimage.map_coordinates(label, places, order=0, mode='nearest')


def refinement(
    epoch: str,
    *,
    variant: str,
    side: int,
    size: int,
    device: torch.device,
    folder: Path,
    plain: ModuleType | None = None,
) -> dict[str, BenchmarkCase]:
    """Mend the label of one image.

    Args:
        epoch: One of :data:`EPOCHS`: nothing is kept yet; the image comes
            again with the label it had; it comes with borders that have moved.
        variant: As for :class:`RandomSAMRefiner`.
        side: Of the square that SAM sees.
        size: Side of the image, pixels.
        device: Where SAM runs.
        folder: An empty one, for the cache.
        plain: Of :func:`load_reference`.

    Returns:
        Each returns a label (H, W).
    """
    area = size * size // 118  # 5,000 of 768 x 768
    first = epoch == EPOCHS[0]
    refiner = RandomSAMRefiner(
        variant, side, min_area=area, cache_dir=None if first else folder
    ).to(device)
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(1, 3, 24, 24, generator=generator) * 255
    image = torch.nn.functional.interpolate(
        image, size=(size, size), mode='bilinear'
    )[0].byte()
    array = as_rgb_array(image)
    label = make_label(size)
    moved = iter(range(1, 10**9))

    def next_label():
        if epoch == EPOCHS[2]:
            return drifted(label, next(moved))
        return label

    refiner(image.to(device), torch.from_numpy(label).to(device))
    decoder = refiner.sam.model.mask_decoder
    cases = {}
    if plain:
        from segment_anything import SamPredictor

        predictor = SamPredictor(refiner.sam.model)
        seed = [refiner.seed, int(digest_array(array), 16)]
        cases[PLAIN] = BenchmarkCase(
            lambda la: plain.refine(
                predictor, array, la, min_area=area, seed=seed
            ),
            next_label,
            (
                TimedMethod(
                    refiner.sam.model.image_encoder, 'forward', 'encoder'
                ),
                TimedMethod(decoder, 'forward', 'decoder'),
            ),
        )
    cases[OURS] = BenchmarkCase(
        lambda la: refiner(
            image.to(device), torch.from_numpy(la).to(device)
        ).cpu(),
        next_label,
        (
            TimedMethod(refiner.sam.model.image_encoder, 'forward', 'encoder'),
            TimedMethod(decoder, 'forward', 'decoder'),
            TimedMethod(refiner, '_prompts', 'components and points'),
            TimedMethod(refiner, '_merge', 'merging'),
        ),
    )
    return cases
