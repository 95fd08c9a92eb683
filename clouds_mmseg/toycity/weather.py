"""Weather and darkness on a rendered street.

Every function takes and returns colours as float32 (H, W, 3) in 0 to 1, H and
W being the size of the image.
"""

import math
from collections.abc import Sequence
from functools import cached_property

import cv2
import numpy as np

from clouds_mmseg.toycity.canvas import Canvas
from clouds_mmseg.toycity.scene import Scene
from clouds_mmseg.toycity.street import LANE
from clouds_mmseg.toycity.styles import (
    RGB,
    ROAD,
    SIDEWALK,
    TERRAIN,
    VEGETATION,
)

SNOW = np.array([0.90, 0.925, 0.96], np.float32)
MOONLIGHT = np.array([0.78, 0.86, 1.12], np.float32)
HEADLIGHT = np.array([0.78, 0.75, 0.68], np.float32)
LAMPLIGHT = np.array([1.05, 0.74, 0.38], np.float32)
NIGHT_SKY = np.array([0.045, 0.05, 0.075], np.float32)
# Street lamps farther away than this, in metres, light nothing in sight.
LAST_LAMP = 60
# Depth in metres that stands for the sky's.
INFINITY = 500


class View:
    """Class, depth, position and slope of the surface at each pixel.

    All arrays are (H, W) of the image, or (H, W, 3); they are computed
    when they are first asked for, because fair weather needs few.

    Args:
        canvas: After the last object.
        scene: What was painted.
        oversampling: Pixels of the canvas along a pixel's edge.
    """

    def __init__(self, canvas: Canvas, scene: Scene, oversampling: int):
        self._canvas = canvas
        self._step = oversampling
        middle = oversampling // 2
        self._middle = middle
        self._ids = canvas.ids[middle::oversampling, middle::oversampling]
        self.shape = self._ids.shape
        self.horizon = canvas.camera.cy / oversampling
        lamps = [item.lamp for item in scene.items if item.lamp is not None]
        # World coordinates (N, 3) in metres of the street lamps.
        self.lamps = np.array(lamps, np.float32).reshape(-1, 3)

    def _look_up(self, table, dtype=np.float32):
        return np.take(np.array(table, dtype), self._ids, axis=0)

    @cached_property
    def label(self) -> np.ndarray:
        """Train ids, uint8."""
        return self._look_up(self._canvas.classes, np.uint8)

    @cached_property
    def glow(self) -> np.ndarray:
        """Light sent out (H, W, 3) float32, 0 to 1."""
        return self._look_up(self._canvas.glows) / 255

    @cached_property
    def rough(self) -> np.ndarray:
        """Strength of texture, float32, 0 to 1."""
        return self._look_up(self._canvas.roughness)

    @cached_property
    def up(self) -> np.ndarray:
        """How far the surface faces upwards, float32, -1 to 1."""
        return self._look_up(self._canvas.ups)

    @cached_property
    def ground(self) -> np.ndarray:
        """Where the ground itself is seen, bool."""
        ground = np.isin(np.arange(256), (ROAD, SIDEWALK, TERRAIN))
        return ground[self.label] & (self.up > 0.9)

    @cached_property
    def nearness(self) -> np.ndarray:
        """1 / depth in 1/metre, float32; 0 in the sky."""
        cols, rows = self._grid
        a, b, c = np.array(self._canvas.planes, np.float32).T
        ids = self._ids
        nearness = a[ids] * cols + b[ids] * rows + c[ids]
        return np.clip(nearness, 0, 1.7)

    @cached_property
    def points(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """World coordinates x, y, z, each (H, W) float32, in metres."""
        camera = self._canvas.camera
        cols, rows = self._grid
        depth = 1 / np.maximum(self.nearness, 1 / INFINITY)
        right = (cols - camera.cx) / camera.focal * depth
        cos, sin = math.cos(camera.yaw), math.sin(camera.yaw)
        return (
            cos * right + sin * depth + camera.x,
            (camera.cy - rows) / camera.focal * depth + camera.height,
            cos * depth - sin * right,
        )

    @cached_property
    def plane(self) -> tuple[np.ndarray, np.ndarray]:
        """Coordinates u, v in metres along the surface, for textures."""
        x, y, z = self.points
        flat = np.abs(self.up) > 0.7
        return np.where(flat, x, x + z), np.where(flat, z, y)

    @cached_property
    def _grid(self):
        height, width = self.shape
        cols = np.arange(width, dtype=np.float32) * self._step + self._middle
        rows = np.arange(height, dtype=np.float32) * self._step + self._middle
        return cols, rows[:, None]


def noise_tile(
    rng: np.random.Generator, octaves: Sequence[int], *, size: int = 128
) -> np.ndarray:
    """A repeating noise.

    Args:
        rng: Source.
        octaves: Sizes of the spots in pixels of the tile.
        size: Width and height of the tile.

    Returns:
        (size, size) float32 with mean 0 and deviation 1.
    """
    total = np.zeros((size, size), np.float32)
    for step in octaves:
        coarse = rng.random((size // step, size // step), np.float32)
        coarse = np.pad(coarse, 1, mode='wrap')
        big = cv2.resize(coarse, None, fx=step, fy=step)
        total += big[step : step + size, step : step + size]
    return (total - total.mean()) / total.std()


def sample_tile(tile: np.ndarray, view: View, per_metre: float) -> np.ndarray:
    """The noise where each pixel's surface is, (H, W) float32."""
    size = len(tile)
    u, v = (np.mod(axis * per_metre, size) for axis in view.plane)
    return cv2.remap(
        tile,
        u.astype(np.float32),
        v.astype(np.float32),
        cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_WRAP,
    )


def add_texture(
    image: np.ndarray, view: View, strength: float, rng: np.random.Generator
) -> np.ndarray:
    """Add stains and grain to all surfaces, by their roughness."""
    fine = sample_tile(noise_tile(rng, (4, 1)), view, 18)
    coarse = sample_tile(noise_tile(rng, (32, 8)), view, 5)
    # What is far away is too small to be seen.
    fine *= np.clip(25 * view.nearness, 0, 1)
    amount = strength * view.rough * (0.19 * fine + 0.14 * coarse)
    return image * np.clip(1 + amount, 0.2, 2)[..., None]


def add_snow_cover(
    image: np.ndarray, view: View, amount: float, rng: np.random.Generator
) -> np.ndarray:
    """Cover upward surfaces with snow, except wheel tracks."""
    patches = sample_tile(noise_tile(rng, (32, 8, 2, 1)), view, 11)
    x = view.points[0]
    off_centre = np.abs(np.mod(x + LANE / 2, LANE) - LANE / 2)
    track = np.exp(-np.square((off_centre - 0.75) / 0.33))
    label = view.label
    # A pixel is covered where the noise is above its threshold.
    limit = np.full(view.shape, -3.0, np.float32)
    road = 1.2 - 3.0 * amount + 3.2 * track
    limit = np.where(label == ROAD, road, limit)
    limit = np.where(label == SIDEWALK, 0.2 - 2.4 * amount, limit)
    share = np.clip((view.up - 0.4) / 0.4, 0, 1)
    leaves = label == VEGETATION
    limit = np.where(leaves, -0.2, limit)
    share = np.where(leaves, 0.65, share)
    share *= np.clip((patches - limit) * 0.8, 0, 1)
    white = SNOW * (1 + 0.035 * np.clip(patches, -2, 2))[..., None]
    return image + (white - image) * (0.95 * share)[..., None]


def add_wetness(
    image: np.ndarray, view: View, amount: float, rng: np.random.Generator
) -> np.ndarray:
    """Darken the ground and add reflections to it."""
    height, width = view.shape
    ground = view.ground
    rows = np.arange(height)[:, None]
    # The row above which a column last left the ground: its mirror's axis.
    foot = np.maximum.accumulate(np.where(ground, -1, rows), axis=0)
    foot = np.maximum(foot, int(view.horizon))
    source = np.clip(2 * foot - rows + 1, 0, height - 1)
    mirrored = image[source, np.arange(width)]
    mirrored = cv2.GaussianBlur(
        mirrored, (0, 0), width / 300, sigmaY=width / 90
    )
    puddles = sample_tile(noise_tile(rng, (64, 16)), view, 6)
    share = amount * np.clip(0.62 + 0.35 * puddles, 0.15, 1.0)
    share *= np.where(view.label == ROAD, 1.0, 0.6) * ground
    wet = image * np.where(ground, 0.72, 1.0)[..., None]
    return wet + (mirrored - wet) * share[..., None]


def darken(image: np.ndarray, view: View, amount: float) -> np.ndarray:
    """Night: head lights, street lamps, lit windows and their glow."""
    x, y, z = view.points
    ahead = np.maximum(z, 1)
    # Low beams: a fan that fades with distance and hardly reaches up.
    beam = np.exp(-np.square(x / (0.9 + 0.3 * ahead)))
    beam *= np.exp(-np.maximum(y - 0.9, 0) / (0.3 + 0.035 * ahead))
    beam *= np.minimum(ahead / 6, 1) / (1 + np.square(ahead / 18))
    lit = beam[..., None] * HEADLIGHT
    pool = np.zeros(view.shape, np.float32)
    for lamp in view.lamps[view.lamps[:, 2] < LAST_LAMP]:
        away = np.square(x - lamp[0]) + np.square(z - lamp[2])
        away += np.square(y - lamp[1])
        pool += (y < lamp[1]) / (1.4 + away / 9)
    lit += pool[..., None] * LAMPLIGHT
    dark = image * ((1 - amount) * MOONLIGHT + lit)
    sky = (view.nearness == 0)[..., None]
    dark = np.where(sky, NIGHT_SKY * (0.6 + image), dark)
    width = view.shape[1]
    halo = cv2.GaussianBlur(view.glow, (0, 0), width / 220)
    # The wide halo is smooth: a quarter of the pixels carry it.
    small = cv2.resize(
        view.glow, None, fx=0.25, fy=0.25, interpolation=cv2.INTER_AREA
    )
    small = cv2.GaussianBlur(small, (0, 0), width / 140)
    halo += 1.3 * cv2.resize(small, view.shape[::-1])
    return np.maximum(dark, view.glow) + halo


def add_fog(
    image: np.ndarray, view: View, visibility: float, colour: RGB
) -> np.ndarray:
    """Light lost on the way (Koschmieder): 5 % is left at ``visibility``.

    Args:
        image: Colours.
        view: Of the same image.
        visibility: In metres.
        colour: RGB of the fog.
    """
    left = np.exp(-3 / (visibility * np.maximum(view.nearness, 1e-4)))
    colour = np.array(colour, np.float32) / 255
    return colour + (image - colour) * left[..., None]


def add_rain(
    image: np.ndarray, per_thousand: float, rng: np.random.Generator
) -> np.ndarray:
    """Bright streaks, all along one wind; a number per 1000 pixels."""
    height, width = image.shape[:2]
    count = int(per_thousand * height * width / 1000)
    slope = rng.uniform(-0.25, 0.25)
    layer = np.zeros((height, width), np.uint8)
    drops = rng.random((count, 4))
    for x, y, length, tone in drops.tolist():
        x, y = (1.2 * x - 0.1) * width, (1.1 * y - 0.1) * height
        length = (0.05 + 0.1 * length) * height
        start = (int(x * 16), int(y * 16))
        end = (int((x + slope * length) * 16), int((y + length) * 16))
        cv2.line(layer, start, end, 60 + 110 * tone, 1, cv2.LINE_AA, 4)
    share = layer[..., None] * np.float32(0.65 / 255)
    return image + (np.float32(0.88) - image) * share


def add_flakes(
    image: np.ndarray, per_thousand: float, rng: np.random.Generator
) -> np.ndarray:
    """White flakes, many far and small, a few near; per 1000 pixels."""
    height, width = image.shape[:2]
    count = int(per_thousand * height * width / 1000)
    layer = np.zeros((height, width), np.uint8)
    unit = width / 256 * 16
    for x, y, size, tone in rng.random((count, 4)).tolist():
        radius = 1.4 if size > 0.92 else 0.9 if size > 0.6 else 0.5
        centre = (int(x * width * 16), int(y * height * 16))
        cv2.circle(
            layer,
            centre,
            int(radius * unit),
            130 + 115 * tone,
            -1,
            cv2.LINE_AA,
            4,
        )
    share = layer[..., None] * np.float32(1 / 255)
    return image + (np.float32(0.97) - image) * share
