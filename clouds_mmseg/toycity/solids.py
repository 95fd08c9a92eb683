"""Outlines and solids that objects are built of."""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from clouds_mmseg.toycity.camera import Face, Frame, Outline, Point, Vector
from clouds_mmseg.toycity.canvas import Canvas
from clouds_mmseg.toycity.styles import RGB, Look

# Extent (x0, x1, z0, z1) on the ground in metres.
Footprint = tuple[float, float, float, float]


@dataclass(frozen=True)
class Item(ABC):
    """Base of all objects; a subclass adds its shape and ``draw``.

    Attributes:
        x: Position across the street in metres.
        z: Position along the street in metres.
    """

    x: float
    z: float

    @property
    @abstractmethod
    def box(self) -> Footprint:
        """Footprint (x0, x1, z0, z1) in metres."""

    @property
    @abstractmethod
    def top(self) -> float:
        """Height that nothing of the object exceeds, in metres."""

    @property
    def reach(self) -> float:
        """How far the object sticks out over its footprint, in metres."""
        return 0.0

    @property
    def lamp(self) -> Vector | None:
        """World point of a lamp that lights the street; None without one."""
        return None

    @property
    def solid(self) -> float:
        """Height up to which the footprint is opaque, in metres."""
        return 0.0

    @abstractmethod
    def draw(self, canvas: Canvas, look: Look) -> None:
        """Paint the object.

        Args:
            canvas: Where.
            look: Colours.
        """


def centred(x: float, z: float, half_x: float, half_z: float) -> Footprint:
    """Footprint (x0, x1, z0, z1) around a point."""
    return (x - half_x, x + half_x, z - half_z, z + half_z)


def rect(u0: float, v0: float, u1: float, v1: float) -> list[Point]:
    """A rectangle between two opposite corners."""
    return [(u0, v0), (u1, v0), (u1, v1), (u0, v1)]


def rects(
    us: Iterable[float], vs: Iterable[float], width: float, height: float
) -> np.ndarray:
    """Rectangles (N, 4, 2) with lower left corners at all (u, v) pairs."""
    corners = [
        rect(u, v, u + width, v + height)
        for v in map(float, vs)
        for u in map(float, us)
    ]
    return np.array(corners).reshape(-1, 4, 2)


def disc(
    u: float,
    v: float,
    radius: float,
    *,
    points: int = 12,
    stretch: float = 1.0,
    turn: float = 0.0,
) -> list[Point]:
    """A circle, or an ellipse ``stretch`` times as high."""
    step = 2 * math.pi / points
    return [
        (
            u + radius * math.cos(i * step + turn),
            v + radius * stretch * math.sin(i * step + turn),
        )
        for i in range(points)
    ]


def ring(
    u: float, v: float, radius: float, inner: float, *, points: int = 16
) -> np.ndarray:
    """A circle with a hole, as quadrilaterals (N, 4, 2)."""
    out = np.array(disc(u, v, radius, points=points))
    mid = np.array(disc(u, v, inner, points=points))
    return np.stack([out, np.roll(out, -1, 0), np.roll(mid, -1, 0), mid], 1)


def bar(a: Point, b: Point, width: float) -> list[Point]:
    """A straight stroke from point a to point b."""
    (ax, ay), (bx, by) = a, b
    dx, dy = bx - ax, by - ay
    scale = width / 2 / (math.hypot(dx, dy) or 1.0)
    nx, ny = -dy * scale, dx * scale
    return [
        (ax + nx, ay + ny),
        (bx + nx, by + ny),
        (bx - nx, by - ny),
        (ax - nx, ay - ny),
    ]


def box(
    canvas: Canvas,
    frame: Frame,
    xs: tuple[float, float],
    ys: tuple[float, float],
    zs: tuple[float, float],
    colour: RGB | dict[str | None, RGB],
    class_id: int,
    **options: Any,
) -> dict[str, Face]:
    """Paint the visible sides of a cuboid.

    Args:
        canvas: Where.
        frame: Axes that ``xs``, ``ys``, ``zs`` are measured in.
        xs: Extent to the right in metres.
        ys: Extent upwards.
        zs: Extent forward.
        colour: RGB, or RGB by name of the side with a
            ``None`` key for the others.
        class_id: Train id.
        **options: As in :meth:`Canvas.paint`.

    Returns:
        The visible ones of ``left``, ``right``, ``back``,
        ``front``, ``top``, ``bottom``. On the four walls u runs to the right
        as one looks at the wall and v up, both in metres, from the lower
        left corner.
    """
    (x0, x1), (y0, y1), (z0, z1) = xs, ys, zs
    w, h, d = x1 - x0, y1 - y0, z1 - z0
    seen = {}
    for name, origin, u, v, length, rise in (
        ('bottom', (x0, y0, z1), (1, 0, 0), (0, 0, -1), w, d),
        ('top', (x0, y1, z0), (1, 0, 0), (0, 0, 1), w, d),
        ('left', (x0, y0, z1), (0, 0, -1), (0, 1, 0), d, h),
        ('right', (x1, y0, z0), (0, 0, 1), (0, 1, 0), d, h),
        ('front', (x1, y0, z1), (-1, 0, 0), (0, 1, 0), w, h),
        ('back', (x0, y0, z0), (1, 0, 0), (0, 1, 0), w, h),
    ):
        face = frame.face(origin, u, v)
        if not face.seen:
            continue
        if isinstance(colour, dict):
            paint = colour.get(name, colour[None])
        else:
            paint = colour
        made = canvas.paint(
            face, rect(0, 0, length, rise), paint, class_id, **options
        )
        if made is not None:
            seen[name] = made
    return seen


def extrude(
    canvas: Canvas,
    frame: Frame,
    profile: Outline,
    half: float,
    colours: Sequence[RGB],
    side: RGB,
    class_id: int,
    **options: Any,
) -> dict[str | int, Face]:
    """Paint a solid with one outline all along its width.

    Args:
        canvas: Where.
        frame: Axes of the solid.
        profile: Points (forward, up) in metres, clockwise as seen
            from the right side with forward to the right.
        half: Half of the width in metres.
        colours: RGB of the strip from each point to the next.
        side: RGB of the two ends.
        class_id: Train id.
        **options: As in :meth:`Canvas.paint`.

    Returns:
        ``left`` and ``right`` with (u, v) = (forward, up), and the
        number of each strip with u to the local right in metres and v from
        its first point (0) to its second (1); the visible ones.
    """
    jobs: list[tuple[float, str | int, Face, Outline, RGB]] = []
    for i, (a, b) in enumerate(
        zip(profile, [*profile[1:], profile[0]], strict=True)
    ):
        face = frame.face(
            (-half, a[1], a[0]), (1, 0, 0), (0, b[1] - a[1], b[0] - a[0])
        )
        if face.seen:
            x, y, z = face.point(half, 0.5)
            away = x * x + y * y + z * z
            outline = rect(0, 0, 2 * half, 1)
            jobs.append((-away, i, face, outline, colours[i]))
    jobs.sort(key=lambda job: job[0])
    for name, x, sign in (('left', -half, -1), ('right', half, 1)):
        face = frame.face((x, 0, 0), (0, 0, 1), (0, 1, 0))
        # v x u points to the right here.
        if face.seen == (sign > 0):
            jobs.append((0.0, name, face, profile, side))
    seen: dict[str | int, Face] = {}
    for _, name, face, outline, colour in jobs:
        made = canvas.paint(face, outline, colour, class_id, **options)
        if made is not None:
            seen[name] = made
    return seen


def ground_shadow(
    canvas: Canvas, look: Look, frame: Frame, half_x: float, half_z: float
) -> None:
    """Darken the ground below an object, half sizes in metres."""
    face = frame.face((0, 0.01, 0), (1, 0, 0), (0, 0, 1))
    x, z = half_x, half_z
    cut = 0.5 * min(x, z)
    outline = [
        (cut - x, -z),
        (x - cut, -z),
        (x, cut - z),
        (x, z - cut),
        (x - cut, z),
        (cut - x, z),
        (-x, z - cut),
        (-x, cut - z),
    ]
    canvas.detail(face, [outline], (12, 12, 18), opacity=look.style.shadow)
