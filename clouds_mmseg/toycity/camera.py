"""Camera, lens and sensor."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np

from clouds_mmseg.toycity.styles import Style

# Corner (u, v) of an outline on a face.
Point = tuple[float, float]
Outline = Sequence[Point]
# World or camera coordinates (x, y, z).
Vector = tuple[float, float, float]
# Nearer than this depth a polygon is cut off.
NEAR = 0.6


class Face(NamedTuple):
    """A plane with its own axes, for outlines to be painted on.

    Attributes:
        origin: Camera coordinates of (u, v) = (0, 0).
        u: Camera coordinates of one unit along u.
        v: Camera coordinates of one unit along v.
        surface: Number of the surface that carries it, -1 for none.
        light: Factor by which colours on it are multiplied.
    """

    origin: Vector
    u: Vector
    v: Vector
    surface: int = -1
    light: float = 1.0

    @property
    def normal(self) -> Vector:
        """Unit vector v x u in camera coordinates."""
        (ax, ay, az), (bx, by, bz) = self.v, self.u
        x, y, z = ay * bz - az * by, az * bx - ax * bz, ax * by - ay * bx
        length = math.sqrt(x * x + y * y + z * z) or 1.0
        return (x / length, y / length, z / length)

    @property
    def seen(self) -> bool:
        """Whether the camera is on the side that v x u points to."""
        x, y, z = self.normal
        ox, oy, oz = self.origin
        return x * ox + y * oy + z * oz < 0

    def point(self, a: float, b: float) -> Vector:
        """Camera coordinates of (u, v) = (a, b)."""
        x, y, z = (
            o + a * u + b * v
            for o, u, v in zip(self.origin, self.u, self.v, strict=True)
        )
        return x, y, z


class Frame(NamedTuple):
    """Local axes of an object in camera coordinates."""

    origin: Vector
    right: Vector
    forward: Vector

    def vector(self, right: float, up: float, forward: float) -> Vector:
        """A local vector in camera coordinates."""
        (ax, _, az), (bx, _, bz) = self.right, self.forward
        return (ax * right + bx * forward, up, az * right + bz * forward)

    def face(self, origin: Vector, u: Vector, v: Vector) -> Face:
        """A face from its local origin and local axes."""
        x, y, z = self.vector(*origin)
        ox, oy, oz = self.origin
        return Face((ox + x, oy + y, oz + z), self.vector(*u), self.vector(*v))


@dataclass(frozen=True)
class Camera:
    """A pinhole without pitch or roll: vertical edges stay vertical.

    Attributes:
        focal: Focal length in pixels of the canvas.
        cx: Column of the optical axis.
        cy: Row of the horizon.
        x: Position across the street in metres.
        height: Height above the ground in metres.
        yaw: Turn to the right in radians.
    """

    focal: float
    cx: float
    cy: float
    x: float
    height: float
    yaw: float

    def turn(self, x: float, y: float, z: float) -> Vector:
        """A world vector in camera coordinates."""
        cos, sin = math.cos(self.yaw), math.sin(self.yaw)
        return (cos * x - sin * z, y, sin * x + cos * z)

    def frame(
        self, x: float = 0.0, z: float = 0.0, heading: float = 0.0
    ) -> Frame:
        """Axes of an object on the ground.

        Args:
            x: World position across the street in metres.
            z: World position along the street in metres.
            heading: Direction of forward, radians clockwise from
                world z as seen from above.
        """
        cos, sin = math.cos(heading), math.sin(heading)
        return Frame(
            self.turn(x - self.x, -self.height, z),
            self.turn(cos, 0.0, -sin),
            self.turn(sin, 0.0, cos),
        )

    def billboard(self, x: float, z: float, scale: float = 1.0) -> Face:
        """An upright face on the ground that looks at the camera.

        Args:
            x: World position across the street in metres.
            z: World position along the street in metres.
            scale: Metres of one unit of u and v.
        """
        dx, _, dz = self.turn(x - self.x, 0.0, z)
        length = math.hypot(dx, dz) / scale
        return Face(
            (dx, -self.height, dz),
            (dz / length, 0.0, -dx / length),
            (0.0, scale, 0.0),
        )


def clip_near(points: list[Vector]) -> list[Vector]:
    """Cut a polygon at the near plane.

    Args:
        points: Camera coordinates of its corners in order.

    Returns:
        Corners of what is left; empty if all of it is behind.
    """
    kept = []
    last = points[-1]
    for point in points:
        if (point[2] >= NEAR) != (last[2] >= NEAR):
            share = (NEAR - last[2]) / (point[2] - last[2])
            x, y, z = (
                a + (b - a) * share for a, b in zip(last, point, strict=True)
            )
            kept.append((x, y, z))
        if point[2] >= NEAR:
            kept.append(point)
        last = point
    return kept


def expose(
    image: np.ndarray, style: Style, rng: np.random.Generator
) -> np.ndarray:
    """Apply the lens and the sensor of a style to an image.

    Args:
        image: Light (H, W, 3) float32, 1 being white.
        style: Whose lens and sensor.
        rng: Source of noise and of the choices.

    Returns:
        Colours (H, W, 3) uint8.
    """
    height, width = image.shape[:2]
    blur = rng.uniform(*style.blur) * width / 1000
    if blur > 0.05:
        image = cv2.GaussianBlur(image, (0, 0), blur)
    saturation = np.float32(rng.uniform(*style.saturation))
    contrast = np.float32(rng.uniform(*style.contrast))
    gain = np.array(style.white, np.float32) * rng.uniform(*style.exposure)
    if saturation != 1:
        grey = image.mean(-1, keepdims=True)
        image = grey + (image - grey) * saturation
    image = image * gain.astype(np.float32)
    if contrast != 1:
        image = (image - np.float32(0.5)) * contrast + np.float32(0.5)
    if style.vignette:
        y = np.linspace(-1, 1, height, dtype=np.float32)[:, None]
        x = np.linspace(-1, 1, width, dtype=np.float32)
        image = image * (1 - style.vignette / 2 * (x * x + y * y))[..., None]
    deviation = np.float32(rng.uniform(*style.noise) / 255)
    if deviation:
        # Part of the noise is common to the channels, as raw sensors' is.
        grain = rng.standard_normal((height, width, 4), np.float32)
        grain *= deviation
        image = image + 0.8 * grain[..., 3:] + 0.6 * grain[..., :3]
    return np.clip(image * 255 + 0.5, 0, 255).astype(np.uint8)
