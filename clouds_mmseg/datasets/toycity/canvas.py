"""A perspective camera and the buffers that polygons are painted into.

World coordinates are metres: x to the right, y up, z along the street; the
ground is y = 0 and the camera stands at z = 0. Letters in shape comments:
N polygons, P points of a polygon, H and W the size of the buffers.
"""

import math
from dataclasses import dataclass

import cv2
import numpy as np

# Nearer than this (metres) a polygon is cut off.
NEAR = 0.6
# Binary places of a pixel that OpenCV's fill takes.
SHIFT = 4
SKY = 10


@dataclass(frozen=True)
class Camera:
    """A pinhole without pitch or roll: vertical edges stay vertical.

    Attributes:
        focal: Focal length in pixels of the buffer.
        cx: Column of the optical axis in pixels.
        cy: Row of the horizon in pixels.
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

    def view(self, points):
        """World points (..., 3) to camera coordinates (right, up, depth)."""
        x = points[..., 0] - self.x
        z = points[..., 2]
        cos, sin = math.cos(self.yaw), math.sin(self.yaw)
        out = np.empty(points.shape)
        out[..., 0] = cos * x - sin * z
        out[..., 1] = points[..., 1] - self.height
        out[..., 2] = sin * x + cos * z
        return out

    def project(self, view):
        """Camera coordinates (..., 3) to pixels (..., 2), x before y."""
        scale = self.focal / view[..., 2]
        out = np.empty(view.shape[:-1] + (2,))
        out[..., 0] = self.cx + view[..., 0] * scale
        out[..., 1] = self.cy - view[..., 1] * scale
        return out


@dataclass(frozen=True)
class Face:
    """A plane patch with its own axes, for what is painted on it.

    Attributes:
        origin: World point (3,) of (u, v) = (0, 0).
        u: World vector (3,) of one unit of u.
        v: World vector (3,) of one unit of v.
        surface: Number of the surface that carries the patch, or -1.
        light: Factor by which colours on the patch are multiplied.
    """

    origin: np.ndarray
    u: np.ndarray
    v: np.ndarray
    surface: int = -1
    light: float = 1.0

    def at(self, uv):
        """Coordinates (..., 2) on the patch to world points (..., 3)."""
        uv = np.asarray(uv, float)
        return self.origin + uv[..., :1] * self.u + uv[..., 1:] * self.v


class Canvas:
    """Colour, and the number of the surface that each pixel shows.

    What depends on depth or class is computed later, from the table of
    surfaces: the class of a pixel is exactly that of the polygon painted last
    over its centre, and 1 / depth is affine in the pixel because every
    surface is flat.

    Args:
        size (tuple[int, int]): Width and height in pixels.
        camera (Camera): Projection in the same pixels.
        sun (Sequence[float]): Unit vector (3,) towards the light.
        ambient (float): Share of the light that comes from everywhere.
    """

    def __init__(self, size, camera, *, sun=(0, 1, 0), ambient=0.7):
        width, height = size
        self.camera = camera
        self.sun = sun
        self.ambient = ambient
        self.image = np.zeros((height, width, 3), np.uint8)
        self.ids = np.zeros((height, width), np.int32)
        # Surface 0 is the sky: infinitely far away.
        self.classes = [SKY]
        self.planes = [(0.0, 0.0, 0.0)]
        self.normals = [(0.0, 0.0, 0.0)]
        self.roughness = [0.0]
        self.glows = [(0, 0, 0)]

    def surface(self, points, colour, class_id, **options):
        """Paint one flat polygon.

        Args:
            points (np.ndarray): World points (P, 3), in order.
            colour (tuple[int, int, int]): RGB, before shading.
            class_id (int): Train id.
            rough (float): Strength of texture, 0 to 1.
            glow (tuple[int, int, int]): RGB that the surface sends out.
            shade (bool): Whether its slope to the sun darkens it.
            opacity (float): Share of the colour that covers what is behind;
                the class covers it in any case.

        Returns:
            Face: The surface with the axes x and y of the world; None when
            it is out of sight.
        """
        return self.surfaces([points], colour, class_id, **options)

    def surfaces(
        self,
        polygons,
        colour,
        class_id,
        *,
        rough=0.3,
        glow=(0, 0, 0),
        shade=True,
        opacity=1.0,
    ):
        """Paint polygons that lie in one plane as one surface."""
        first = np.asarray(polygons[0], float)
        normal, offset = _plane(first)
        eye = (
            normal[0] * self.camera.x + normal[1] * self.camera.height - offset
        )
        if eye < 0:
            normal = (-normal[0], -normal[1], -normal[2])
        pixels = [self._pixels(p) for p in polygons]
        pixels = [p for p in pixels if p is not None]
        if not pixels:
            return None
        number = len(self.classes)
        light = self._light(normal) if shade else 1.0
        self.classes.append(class_id)
        self.planes.append(self._inverse_depth(normal, first[0]))
        self.normals.append(normal)
        self.roughness.append(rough)
        self.glows.append(glow)
        self._paint(pixels, _scaled(colour, light), opacity)
        for polygon in pixels:
            cv2.fillPoly(self.ids, [polygon], number, cv2.LINE_8, SHIFT)
        return Face(first[0], np.zeros(3), np.zeros(3), number, light)

    def detail(self, face, polygons, colour, *, glow=None, opacity=1.0):
        """Paint on a face: no new depth, no new class.

        Args:
            face (Face): Where; None (a face out of sight) paints nothing.
            polygons (array): (N, P, 2) coordinates on the face.
            colour (tuple[int, int, int]): RGB before shading.
            glow (tuple[int, int, int]): RGB sent out, None for none.
            opacity (float): Share of the colour.
        """
        polygons = np.asarray(polygons, float)
        if face is None or polygons.size == 0:
            return
        if polygons.ndim == 2:
            polygons = polygons[None]
        view = self.camera.view(face.at(polygons))  # (N, P, 3)
        view = view[(view[..., 2] > NEAR).all(-1)]
        if len(view) == 0:
            return
        pixels = list(_fixed(self.camera.project(view)))
        self._paint(pixels, _scaled(colour, face.light), opacity)
        if glow is not None:
            number = len(self.classes)
            for table in (
                self.classes, self.planes, self.normals, self.roughness
            ):  # fmt: skip
                table.append(table[face.surface])
            self.glows.append(glow)
            cv2.fillPoly(self.ids, pixels, number, cv2.LINE_8, SHIFT)

    def billboard(self, x, z, y=0.0):
        """An upright face at (x, y, z) that looks at the camera."""
        dx, dz = x - self.camera.x, z
        length = math.hypot(dx, dz)
        right = np.array([dz / length, 0.0, -dx / length])
        return Face(np.array([x, y, z]), right, np.array([0.0, 1.0, 0.0]))

    def scale_at(self, z):
        """Pixels of this canvas that a metre takes at a depth."""
        return self.camera.focal / max(z, NEAR)

    def _pixels(self, points):
        view = self.camera.view(np.asarray(points, float))
        if view[:, 2].min() < NEAR:
            view = _clip_near(view)
            if view is None:
                return None
        return _fixed(self.camera.project(view))

    def _paint(self, pixels, colour, opacity):
        if opacity >= 1:
            for polygon in pixels:
                cv2.fillPoly(self.image, [polygon], colour, cv2.LINE_AA, SHIFT)
            return
        x, y, w, h = cv2.boundingRect(np.concatenate(pixels) >> SHIFT)
        height, width = self.ids.shape
        x0, x1 = max(x - 1, 0), min(x + w + 1, width)
        y0, y1 = max(y - 1, 0), min(y + h + 1, height)
        if x0 >= x1 or y0 >= y1:
            return
        part = self.image[y0:y1, x0:x1]
        over = part.copy()
        move = np.array([x0 << SHIFT, y0 << SHIFT], np.int32)
        for polygon in pixels:
            cv2.fillPoly(over, [polygon - move], colour, cv2.LINE_AA, SHIFT)
        cv2.addWeighted(over, opacity, part, 1 - opacity, 0, part)

    def _light(self, normal):
        lean = sum(n * s for n, s in zip(normal, self.sun, strict=True))
        return self.ambient + (1 - self.ambient) * max(lean, 0.0)

    def _inverse_depth(self, normal, point):
        """Coefficients (a, b, c) of 1 / depth = a col + b row + c."""
        camera = self.camera
        cos, sin = math.cos(camera.yaw), math.sin(camera.yaw)
        nx = cos * normal[0] - sin * normal[2]
        nz = sin * normal[0] + cos * normal[2]
        offset = (
            normal[0] * (point[0] - camera.x)
            + normal[1] * (point[1] - camera.height)
            + normal[2] * point[2]
        )
        if abs(offset) < 1e-6:
            return (0.0, 0.0, 0.0)
        a = nx / camera.focal / offset
        b = -normal[1] / camera.focal / offset
        return (a, b, nz / offset - a * camera.cx - b * camera.cy)


def _plane(points):
    """Unit normal and offset of the plane through the first corner."""
    (ax, ay, az), (bx, by, bz), (cx, cy, cz) = points[:3].tolist()
    ux, uy, uz = bx - ax, by - ay, bz - az
    vx, vy, vz = cx - bx, cy - by, cz - bz
    nx, ny, nz = uy * vz - uz * vy, uz * vx - ux * vz, ux * vy - uy * vx
    length = math.sqrt(nx * nx + ny * ny + nz * nz) or 1.0
    nx, ny, nz = nx / length, ny / length, nz / length
    return (nx, ny, nz), nx * ax + ny * ay + nz * az


def _scaled(colour, light):
    return tuple(min(int(c * light), 255) for c in colour)


def _fixed(pixels):
    return np.round(pixels * (1 << SHIFT)).astype(np.int32)


def _clip_near(view):
    """Cut a polygon (P, 3) at the near plane; None if all of it is behind."""
    kept = []
    for a, b in zip(view, np.roll(view, -1, axis=0), strict=True):
        if a[2] >= NEAR:
            kept.append(a)
        if (a[2] >= NEAR) != (b[2] >= NEAR):
            kept.append(a + (b - a) * (NEAR - a[2]) / (b[2] - a[2]))
    return np.array(kept) if len(kept) >= 3 else None
