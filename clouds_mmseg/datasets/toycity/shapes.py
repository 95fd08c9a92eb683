"""Solids and outlines out of which the objects of the street are built."""

import math
from dataclasses import dataclass

import numpy as np

from clouds_mmseg.datasets.toycity.canvas import Face

UP = np.array([0.0, 1.0, 0.0])


@dataclass(frozen=True)
class Frame:
    """Local axes of an object: right, up, forward.

    Attributes:
        x: World position across the street in metres.
        z: World position along the street in metres.
        heading: Direction of forward, radians clockwise from world z.
        y: Height of the local ground in metres.
    """

    x: float = 0.0
    z: float = 0.0
    heading: float = 0.0
    y: float = 0.0

    @property
    def axes(self):
        """World vectors (3,) of local right and local forward."""
        cos, sin = math.cos(self.heading), math.sin(self.heading)
        return np.array([cos, 0.0, -sin]), np.array([sin, 0.0, cos])

    def face(self, origin, u, v):
        """A face from a local origin (3,) and local axes (3,) each."""
        right, forward = self.axes
        base = np.stack([right, UP, forward])  # (3, 3)
        place = np.array([self.x, self.y, self.z])
        return Face(
            place + np.asarray(origin, float) @ base,
            np.asarray(u, float) @ base,
            np.asarray(v, float) @ base,
        )


def paint_face(canvas, face, outline, colour, class_id, **options):
    """Paint an outline (P, 2) on a face as a surface of its own.

    Returns:
        Face: The face with its surface and light, None if out of sight.
    """
    made = canvas.surface(face.at(outline), colour, class_id, **options)
    if made is None:
        return None
    return Face(face.origin, face.u, face.v, made.surface, made.light)


def rect(u0, v0, u1, v1):
    """Corners (4, 2) of a rectangle."""
    return np.array([[u0, v0], [u1, v0], [u1, v1], [u0, v1]], float)


def rects(us, vs, width, height):
    """Rectangles (N, 4, 2) with lower left corners at all (u, v) pairs."""
    u, v = np.meshgrid(np.asarray(us, float), np.asarray(vs, float))
    corner = np.stack([u.ravel(), v.ravel()], -1)[:, None]  # (N, 1, 2)
    return corner + rect(0, 0, width, height)


def disc(u, v, radius, *, points=12, stretch=1.0, turn=0.0):
    """A circle, or an ellipse ``stretch`` times as high, as (P, 2)."""
    angle = np.arange(points) * (2 * math.pi / points) + turn
    return np.stack(
        [u + radius * np.cos(angle), v + radius * stretch * np.sin(angle)], -1
    )


def bar(a, b, width):
    """A straight stroke (4, 2) from point a to point b."""
    (ax, ay), (bx, by) = a, b
    dx, dy = bx - ax, by - ay
    scale = width / 2 / (math.hypot(dx, dy) or 1.0)
    nx, ny = -dy * scale, dx * scale
    return np.array(
        [[ax + nx, ay + ny], [bx + nx, by + ny],
         [bx - nx, by - ny], [ax - nx, ay - ny]]
    )  # fmt: skip


def box(canvas, frame, xs, ys, zs, colour, class_id, **options):
    """Paint the visible sides of a cuboid.

    Args:
        canvas (Canvas): Where.
        frame (Frame): Axes that ``xs``, ``ys``, ``zs`` are measured in.
        xs (tuple[float, float]): Extent to the right in metres.
        ys (tuple[float, float]): Extent upwards.
        zs (tuple[float, float]): Extent forward.
        colour (tuple | dict): RGB, or RGB by name of the side with a
            ``None`` key for the others.
        class_id (int): Train id.
        **options: As in :meth:`Canvas.surface`.

    Returns:
        dict[str, Face]: The visible ones of ``left``, ``right``, ``back``,
        ``front``, ``top``, ``bottom``. On the four walls u runs to the right
        as one looks at the wall and v up, both in metres, from the lower
        left corner.
    """
    (x0, x1), (y0, y1), (z0, z1) = xs, ys, zs
    w, h, d = x1 - x0, y1 - y0, z1 - z0
    sides = {
        'back': ((x0, y0, z0), (1, 0, 0), (0, 1, 0), w, h),
        'front': ((x1, y0, z1), (-1, 0, 0), (0, 1, 0), w, h),
        'left': ((x0, y0, z1), (0, 0, -1), (0, 1, 0), d, h),
        'right': ((x1, y0, z0), (0, 0, 1), (0, 1, 0), d, h),
        'top': ((x0, y1, z0), (1, 0, 0), (0, 0, 1), w, d),
        'bottom': ((x0, y0, z1), (1, 0, 0), (0, 0, -1), w, d),
    }
    camera = canvas.camera
    eye = np.array([camera.x, camera.height, 0.0])
    seen = {}
    for name, (origin, u, v, length, rise) in sides.items():
        face = frame.face(origin, u, v)
        # u x v points inwards with these axes.
        if np.dot(_cross(face.v, face.u), eye - face.origin) <= 0:
            continue
        paint = colour
        if isinstance(colour, dict):
            paint = colour.get(name, colour[None])
        made = paint_face(
            canvas, face, rect(0, 0, length, rise), paint, class_id, **options
        )
        if made is not None:
            seen[name] = made
    return seen


def extrude(canvas, frame, profile, half, colours, side, class_id, **options):
    """Paint a solid with one outline all along its width.

    Args:
        canvas (Canvas): Where.
        frame (Frame): Axes of the solid.
        profile (Sequence): (P, 2) points (forward, up) in metres, clockwise
            as seen from the right side with forward to the right.
        half (float): Half of the width in metres.
        colours (Sequence): RGB of the strip from each point to the next.
        side (tuple): RGB of the two ends.
        class_id (int): Train id.
        **options: As in :meth:`Canvas.surface`.

    Returns:
        dict: ``left`` and ``right`` with (u, v) = (forward, up), and the
        number of each strip with u to the local right and v from its first
        point to its second (0 to 1); the visible ones.
    """
    camera = canvas.camera
    eye = np.array([camera.x, camera.height, 0.0])
    profile = np.asarray(profile, float)
    jobs = []
    for name, x, sign in (('left', -half, -1), ('right', half, 1)):
        face = frame.face((x, 0, 0), (0, 0, 1), (0, 1, 0))
        if np.dot(frame.axes[0] * sign, eye - face.origin) > 0:
            jobs.append((0.0, name, face, profile, side))
    for i, (a, b) in enumerate(
        zip(profile, np.roll(profile, -1, axis=0), strict=True)
    ):
        face = frame.face(
            (-half, a[1], a[0]), (1, 0, 0), (0, b[1] - a[1], b[0] - a[0])
        )
        if np.dot(_cross(face.v, face.u), eye - face.origin) > 0:
            middle = face.at((half, 0.5)) - eye
            outline = rect(0, 0, 2 * half, 1)
            jobs.append(
                (-np.dot(middle, middle), i, face, outline, colours[i])
            )
    seen = {}
    strips = sorted((j for j in jobs if j[1] not in ('left', 'right')),
                    key=lambda job: job[0])  # fmt: skip
    ends = [j for j in jobs if j[1] in ('left', 'right')]
    for _, name, face, outline, colour in strips + ends:
        made = paint_face(canvas, face, outline, colour, class_id, **options)
        if made is not None:
            seen[name] = made
    return seen


def _cross(a, b):
    return np.array(
        [a[1] * b[2] - a[2] * b[1],
         a[2] * b[0] - a[0] * b[2],
         a[0] * b[1] - a[1] * b[0]]
    )  # fmt: skip
