"""What lies between the street and the file: weather, light, lens, sensor.

Every step takes and returns colours as float32 (H, W, 3) in 0 to 1, H and W
being the size of the picture.
"""

from dataclasses import dataclass

import cv2
import numpy as np

from clouds_mmseg.datasets.toycity.look import ROAD, SIDEWALK, TERRAIN

GROUND = (ROAD, SIDEWALK, TERRAIN)


@dataclass(frozen=True)
class View:
    """What is known about every pixel.

    Attributes:
        label: Train ids (H, W) uint8.
        nearness: 1 / depth (H, W) float32, per metre; 0 in the sky.
        points: World coordinates (H, W, 3) float32 in metres; depth is
            limited to 500.
        up: How far the surface faces upwards (H, W) float32, -1 to 1.
        rough: Strength of texture (H, W) float32.
        glow: Light sent out (H, W, 3) float32, 0 to 1.
        lamps: World coordinates (N, 3) of the street lamps.
        horizon: Row of the horizon.
    """

    label: np.ndarray
    nearness: np.ndarray
    points: np.ndarray
    up: np.ndarray
    rough: np.ndarray
    glow: np.ndarray
    lamps: np.ndarray
    horizon: float

    @property
    def ground(self):
        """Where the ground itself is seen, bool (H, W)."""
        return np.isin(self.label, GROUND)


def noise_tile(rng, *, size=256, octaves=(64, 16, 4, 1)):
    """A repeating noise (size, size) float32 around 0, deviation 1."""
    total = np.zeros((size, size), np.float32)
    for step in octaves:
        cells = rng.standard_normal((size // step, size // step))
        cells = np.pad(cells, 1, mode='wrap').astype(np.float32)
        big = cv2.resize(
            cells, None, fx=step, fy=step, interpolation=cv2.INTER_LINEAR
        )
        total += big[step : step + size, step : step + size]
    return total / total.std()


def sample_tile(tile, view, *, per_metre):
    """The noise where each pixel's surface is, (H, W) float32."""
    x, y, z = np.moveaxis(view.points, -1, 0)
    flat = np.abs(view.up) > 0.7
    u = np.where(flat, x, x + z)
    v = np.where(flat, z, y)
    size = len(tile)
    rows = (v * per_metre).astype(np.int64) % size
    cols = (u * per_metre).astype(np.int64) % size
    return tile[rows, cols]


def add_texture(image, view, style, rng):
    """Stains, bricks, leaves and grain on surfaces."""
    if style.texture == 0:
        return image
    fine = sample_tile(noise_tile(rng), view, per_metre=22)
    coarse = sample_tile(noise_tile(rng, octaves=(64, 32, 16)), view,
                         per_metre=7)  # fmt: skip
    fade = np.clip(25 * view.nearness, 0, 1)
    amount = style.texture * view.rough * (0.16 * fine * fade + 0.13 * coarse)
    return image * np.clip(1 + amount, 0.2, 2)[..., None]


def add_snow_cover(image, view, amount, rng):
    """White on everything that faces up, more on grass than on the road."""
    if amount == 0:
        return image
    patches = sample_tile(noise_tile(rng, octaves=(64, 16, 8)), view,
                          per_metre=9)  # fmt: skip
    share = np.clip((view.up - 0.4) / 0.4, 0, 1)
    leaves = view.label == 8
    share = np.where(leaves, 0.55, share)
    limit = np.where(view.label == ROAD, 1.05 - amount, -1.2)
    limit = np.where(view.label == SIDEWALK, -0.2 - 0.5 * amount, limit)
    limit = np.where(leaves, 0.2, limit)
    share = share * amount * np.clip((patches - limit) * 2.5, 0, 1)
    white = np.array([0.90, 0.925, 0.96], np.float32)
    white = white * (1 + 0.03 * np.clip(patches, -2, 2))[..., None]
    return image + (white - image) * share[..., None]


def add_wetness(image, view, amount, rng):
    """Darker ground in which what stands on it is mirrored."""
    if amount == 0:
        return image
    ground = view.ground
    height, width = ground.shape
    rows = np.arange(height)[:, None]
    # Row at which the column last left the ground, seen from above.
    foot = np.maximum.accumulate(np.where(ground, -1, rows), axis=0)
    foot = np.maximum(foot, int(view.horizon))
    source = np.clip(2 * foot - rows + 1, 0, height - 1)
    mirrored = image[source, np.arange(width)[None]]
    mirrored = cv2.GaussianBlur(mirrored, (0, 0), width / 300, None,
                                width / 80)  # fmt: skip
    puddles = sample_tile(noise_tile(rng, octaves=(64, 32)), view, per_metre=6)
    share = amount * np.clip(0.6 + 0.35 * puddles, 0.15, 1.0)
    share = share * np.where(view.label == ROAD, 1.0, 0.6) * ground
    share = cv2.GaussianBlur(share.astype(np.float32), (0, 0), width / 400)
    wet = image * np.where(ground, 0.72, 1.0)[..., None]
    return wet + (mirrored - wet) * share[..., None]


def darken(image, view, amount, style, rng):
    """Night: head lights, street lamps, lit windows and their glow."""
    if amount == 0:
        return image
    x, y, z = np.moveaxis(view.points, -1, 0)
    ahead = np.clip(z, 1, None)
    beam = np.exp(-((x / (0.9 + 0.28 * ahead)) ** 2))
    beam *= np.exp(-np.clip(y - 0.9, 0, None) / (0.25 + 0.03 * ahead))
    beam *= np.clip(ahead / 6, 0, 1) / (1 + (ahead / 17) ** 2)
    lit = beam[..., None] * np.array([0.62, 0.60, 0.54], np.float32)
    warm = np.array([0.85, 0.60, 0.30], np.float32)
    for lamp in view.lamps:
        away = np.square(view.points - lamp).sum(-1)
        lit = lit + (0.55 / (1 + away / 14) * (y < lamp[1]))[..., None] * warm
    ambient = (1 - amount) * np.array([0.78, 0.86, 1.12], np.float32)
    sky = view.nearness == 0
    lit[sky] = 0
    dark = image * (ambient + lit)
    dark[sky] = np.array([0.035, 0.04, 0.065]) * (0.6 + image[sky])
    glow = view.glow
    width = image.shape[1]
    bloom = cv2.GaussianBlur(glow, (0, 0), width / 220) * 0.9
    bloom += cv2.GaussianBlur(glow, (0, 0), width / 45) * 0.9
    return np.maximum(dark, glow) + bloom


def add_fog(image, view, visibility, colour):
    """Light lost on the way (Koschmieder): 5 % is left at ``visibility``."""
    left = np.exp(-3 / (visibility * np.maximum(view.nearness, 1e-4)))
    colour = np.array(colour, np.float32) / 255
    return colour + (image - colour) * left[..., None].astype(np.float32)


def add_rain(image, per_thousand, rng):
    """Bright streaks, all along one wind."""
    height, width = image.shape[:2]
    count = int(per_thousand * height * width / 1000)
    slope = rng.uniform(-0.25, 0.25)
    layer = np.zeros((height, width), np.uint8)
    starts = rng.uniform((-0.1 * width, -0.1 * height), (width, height),
                         (count, 2))  # fmt: skip
    lengths = height * rng.uniform(0.04, 0.13, count)
    tones = rng.integers(50, 150, count)
    for (x, y), length, tone in zip(
        starts.tolist(), lengths.tolist(), tones.tolist(), strict=True
    ):
        end = (int((x + slope * length) * 16), int((y + length) * 16))
        start = (int(x * 16), int(y * 16))
        cv2.line(layer, start, end, tone, 1, cv2.LINE_AA, 4)
    share = (layer / np.float32(255))[..., None] * 0.6
    return image + (np.float32(0.85) - image) * share


def add_flakes(image, per_thousand, rng):
    """White flakes, small ones far away and a few large near ones."""
    height, width = image.shape[:2]
    count = int(per_thousand * height * width / 1000)
    layer = np.zeros((height, width), np.uint8)
    places = rng.uniform((0, 0), (width, height), (count, 2))
    sizes = (
        width / 256 * rng.choice([0.45, 0.8, 1.3], count, p=[0.6, 0.3, 0.1])
    )
    tones = rng.integers(130, 245, count)
    for (x, y), size, tone in zip(
        places.tolist(), sizes.tolist(), tones.tolist(), strict=True
    ):
        cv2.circle(layer, (int(x * 16), int(y * 16)), max(int(size * 16), 8),
                   tone, -1, cv2.LINE_AA, 4)  # fmt: skip
    share = (layer / np.float32(255))[..., None]
    return image + (np.float32(0.97) - image) * share


def expose(image, style, rng):
    """Lens and sensor: blur, tone, colour, vignette, noise."""
    height, width = image.shape[:2]
    blur = rng.uniform(*style.blur) * width / 1000
    if blur > 0.05:
        image = cv2.GaussianBlur(image, (0, 0), blur)
    image = image * np.asarray(style.white, np.float32)
    grey = image.mean(-1, keepdims=True)
    image = grey + (image - grey) * np.float32(rng.uniform(*style.saturation))
    image = image * np.float32(rng.uniform(*style.exposure))
    contrast = np.float32(rng.uniform(*style.contrast))
    if contrast != 1:
        image = np.float32(0.5) + (image - np.float32(0.5)) * contrast
    if style.vignette:
        y = np.linspace(-1, 1, height, dtype=np.float32)[:, None]
        x = np.linspace(-1, 1, width, dtype=np.float32)[None]
        image = image * (1 - style.vignette * (x * x + y * y) / 2)[..., None]
    deviation = rng.uniform(*style.noise) / 255
    if deviation:
        # Part of the noise is common to the channels, as raw sensors' is.
        shape = (height, width)
        image = image + np.float32(deviation) * (
            0.8 * rng.standard_normal((*shape, 1), np.float32)
            + 0.6 * rng.standard_normal((*shape, 3), np.float32)
        )
    return image
