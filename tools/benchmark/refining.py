"""SAM refinement of a pseudo-label: ours and the reference."""

from pathlib import Path
from types import ModuleType

import numpy as np
import torch
from scipy import ndimage

from benchmark.measure import BenchmarkCase
from benchmark.parts import TimedMethod
from benchmark.random_sam import RandomSAMRefiner
from benchmark.report import OURS, REFERENCE
from clouds_mmseg.refine.arguments import as_rgb_array
from clouds_mmseg.utils.hashing import hash_array

# 39 components in an image of 768 x 768 pixels.
ROWS, COLUMNS, COMPONENTS = 6, 7, 39
EPOCHS = ('first epoch', 'second epoch', 'second epoch, borders moved')
# Displacement of borders between two epochs, pixels.
DRIFT = 2.0


def make_label(size: int, seed: int = 0) -> np.ndarray:
    """Generate a label map of 39 components with wavy borders.

    Args:
        size: Side of the square, pixels.
        seed: Random seed of the waves.

    Returns:
        (size, size) int64; three grid cells are ignored.
    """
    grid = (np.arange(ROWS * COLUMNS) * 7 % 19).reshape(ROWS, COLUMNS)
    grid.flat[COMPONENTS:] = 255
    y, x = np.mgrid[:size, :size] / size
    rng = np.random.default_rng(seed)
    a, b = rng.random(2) * 6
    y, x = y + 0.01 * np.sin(9 * x + a), x + 0.01 * np.sin(9 * y + b)
    rows = np.clip(y * ROWS, 0, ROWS - 1).astype(int)
    columns = np.clip(x * COLUMNS, 0, COLUMNS - 1).astype(int)
    return grid[rows, columns].astype(np.int64)


def drifted(label: np.ndarray, seed: int) -> np.ndarray:
    """Displace the borders of a label map by smooth random noise.

    Args:
        label: (H, W) int64.
        seed: Random seed.

    Returns:
        (H, W) int64.
    """
    rng = np.random.default_rng(seed)
    coordinates = np.mgrid[: label.shape[0], : label.shape[1]].astype(float)
    for axis in coordinates:
        noise = ndimage.zoom(
            rng.normal(size=(9, 9)), np.array(label.shape) / 9, order=1
        )
        axis += DRIFT * noise / np.abs(noise).max()
    return ndimage.map_coordinates(label, coordinates, order=0, mode='nearest')


def refinement(
    epoch: str,
    *,
    variant: str,
    side: int,
    size: int,
    device: torch.device,
    folder: Path,
    reference: ModuleType | None = None,
) -> dict[str, BenchmarkCase]:
    """Build the cases that refine the label of one image.

    Args:
        epoch: One of :data:`EPOCHS`: empty cache; same image and label as
            before; same image with displaced label borders.
        variant: As for :class:`RandomSAMRefiner`.
        side: Side of SAM's square input, pixels.
        size: Side of the image, pixels.
        device: Device of SAM.
        folder: Empty folder, for the cache.
        reference: Of :func:`load_reference`.

    Returns:
        Cases whose result is a label (H, W).
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
    if reference:
        from segment_anything import SamPredictor

        predictor = SamPredictor(refiner.sam.model)
        seed = [refiner.seed, int(hash_array(array), 16)]
        cases[REFERENCE] = BenchmarkCase(
            lambda la: reference.refine(
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
