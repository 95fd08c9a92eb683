"""What is known about every pixel of a picture besides its colour."""

import math
from functools import cached_property

import numpy as np

from clouds_mmseg.datasets.toycity.look import ROAD, SIDEWALK, TERRAIN

# Depth in metres that stands for the sky's.
INFINITY = 500


class View:
    """Class, depth, place and slope of what each pixel shows.

    All arrays are (H, W) of the picture, or (H, W, 3); they are computed
    when they are first asked for, because fair weather needs few.

    Args:
        canvas (Canvas): After the last object.
        scene (Scene): What was painted.
        oversampling (int): Pixels of the canvas along a pixel's edge.
    """

    def __init__(self, canvas, scene, oversampling):
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
    def label(self):
        """Train ids, uint8."""
        return self._look_up(self._canvas.classes, np.uint8)

    @cached_property
    def glow(self):
        """Light sent out (H, W, 3) float32, 0 to 1."""
        return self._look_up(self._canvas.glows) / 255

    @cached_property
    def rough(self):
        """Strength of texture, float32, 0 to 1."""
        return self._look_up(self._canvas.roughness)

    @cached_property
    def up(self):
        """How far the surface faces upwards, float32, -1 to 1."""
        return self._look_up(self._canvas.ups)

    @cached_property
    def ground(self):
        """Where the ground itself is seen, bool."""
        ground = np.isin(np.arange(256), (ROAD, SIDEWALK, TERRAIN))
        return ground[self.label] & (self.up > 0.9)

    @cached_property
    def nearness(self):
        """1 / depth in 1/metre, float32; 0 in the sky."""
        cols, rows = self._grid
        a, b, c = np.array(self._canvas.planes, np.float32).T
        ids = self._ids
        nearness = a[ids] * cols + b[ids] * rows + c[ids]
        return np.clip(nearness, 0, 1.7)

    @cached_property
    def points(self):
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
    def plane(self):
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
