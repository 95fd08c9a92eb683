"""Painting of polygons with buffers of colour, class and depth."""

from collections.abc import Sequence

import cv2
import numpy as np

from clouds_mmseg.toycity.camera import (
    NEAR,
    Camera,
    Face,
    Outline,
    Vector,
    clip_near,
)
from clouds_mmseg.toycity.styles import RGB

# Fractional bits of a coordinate in OpenCV's polygon fill.
SHIFT = 4
ONE = 1 << SHIFT
SKY = 10


class Canvas:
    """Colour, and the number of the surface that each pixel shows.

    What depends on depth or class is computed later, from the table of
    surfaces: the class of a pixel is exactly that of the polygon painted last
    over its centre, and 1 / depth is affine in the pixel because every
    surface is flat.

    Args:
        size: Width and height in pixels.
        camera: Projection in the same pixels.
        sun: Unit vector (x, y, z) towards the light.
        ambient: Share of the light that comes from everywhere.
    """

    def __init__(
        self,
        size: tuple[int, int],
        camera: Camera,
        *,
        sun: Vector = (0, 1, 0),
        ambient: float = 0.7,
    ):
        self.width, self.height = size
        self.camera = camera
        self.sun = camera.turn(*sun)
        self.ambient = ambient
        self.image = np.zeros((self.height, self.width, 3), np.uint8)
        self.ids = np.zeros((self.height, self.width), np.int32)
        # Surface 0 is the sky: infinitely far away.
        self.classes = [SKY]
        self.planes = [(0.0, 0.0, 0.0)]
        self.ups = [0.0]
        self.roughness = [0.0]
        self.glows = [(0, 0, 0)]

    def paint(
        self,
        face: Face,
        outline: Outline,
        colour: RGB,
        class_id: int,
        *,
        rough: float = 0.3,
        shade: bool = True,
        opacity: float = 1.0,
    ) -> Face | None:
        """Paint an outline on a face as a surface of its own.

        Args:
            face: The plane.
            outline: Corners (u, v) in order.
            colour: RGB, before shading.
            class_id: Train id.
            rough: Strength of texture, 0 to 1.
            shade: Whether its slope to the sun darkens it.
            opacity: Share of the colour that covers what is behind;
                the class covers it in any case.

        Returns:
            The face with its surface and light; None when the outline
            is out of sight.
        """
        pixels = self._pixels(face, outline)
        if pixels is None:
            return None
        nx, ny, nz = face.normal
        ox, oy, oz = face.origin
        offset = nx * ox + ny * oy + nz * oz
        if offset > 0:
            nx, ny, nz, offset = -nx, -ny, -nz, -offset
        light = 1.0
        if shade:
            sx, sy, sz = self.sun
            lean = max(nx * sx + ny * sy + nz * sz, 0.0)
            light = self.ambient + (1 - self.ambient) * lean
        number = len(self.classes)
        self.classes.append(class_id)
        self.planes.append(self._plane(nx, ny, nz, min(offset, -1e-4)))
        self.ups.append(ny)
        self.roughness.append(rough)
        self.glows.append((0, 0, 0))
        self._fill([pixels], _scaled(colour, light), opacity)
        cv2.fillPoly(self.ids, [pixels], number, cv2.LINE_8, SHIFT)
        return Face(*face[:3], number, light)

    def detail(
        self,
        face: Face | None,
        outlines: Sequence[Outline] | np.ndarray,
        colour: RGB,
        *,
        glow: RGB | None = None,
        opacity: float = 1.0,
    ) -> None:
        """Paint on a painted face: no new depth, no new class.

        Args:
            face: Where; None (a face out of sight) paints nothing.
            outlines: Outlines of (u, v) corners that do not
                overlap; an array (N, P, 2) where there are many.
            colour: RGB before shading.
            glow: RGB sent out, None for none.
            opacity: Share of the colour.
        """
        if face is None or len(outlines) == 0:
            return
        if isinstance(outlines, np.ndarray):
            pixels = self._many_pixels(face, outlines)
        else:
            pixels = [self._pixels(face, outline) for outline in outlines]
            pixels = [p for p in pixels if p is not None]
        if not pixels:
            return
        self._fill(pixels, _scaled(colour, face.light), opacity)
        if glow is not None:
            number = len(self.classes)
            surface = face.surface
            self.classes.append(self.classes[surface])
            self.planes.append(self.planes[surface])
            self.ups.append(self.ups[surface])
            self.roughness.append(self.roughness[surface])
            self.glows.append(glow)
            cv2.fillPoly(self.ids, pixels, number, cv2.LINE_8, SHIFT)

    def scale_at(self, z: float) -> float:
        """Pixels of this canvas that a metre takes at a depth."""
        return self.camera.focal / max(z, NEAR)

    def _pixels(self, face, outline):
        """Fixed-point corners (P, 2) int32; None if nothing is in sight."""
        camera = self.camera
        (ox, oy, oz), (ux, uy, uz), (vx, vy, vz) = face[:3]
        points = [
            (ox + a * ux + b * vx, oy + a * uy + b * vy, oz + a * uz + b * vz)
            for a, b in outline
        ]
        if min(point[2] for point in points) < NEAR:
            points = clip_near(points)
            if len(points) < 3:
                return None
        focal, cx, cy = camera.focal * ONE, camera.cx * ONE, camera.cy * ONE
        pixels = [
            (int(cx + x * focal / z), int(cy - y * focal / z))
            for x, y, z in points
        ]
        xs = [p[0] for p in pixels]
        ys = [p[1] for p in pixels]
        if (
            max(xs) < 0
            or max(ys) < 0
            or min(xs) >= self.width * ONE
            or min(ys) >= self.height * ONE
        ):
            return None
        return np.array(pixels, np.int32)

    def _many_pixels(self, face, outlines):
        camera = self.camera
        axes = np.array([face.u, face.v])  # (2, 3)
        points = outlines @ axes + face.origin  # (N, P, 3)
        points = points[(points[..., 2] > NEAR).all(-1)]
        scale = ONE * camera.focal / points[..., 2:]
        pixels = points[..., :2] * scale * (1, -1)
        pixels += (camera.cx * ONE, camera.cy * ONE)
        low, high = pixels.min(1), pixels.max(1)  # (N, 2)
        inside = (high >= 0).all(-1)
        inside &= (low < (self.width * ONE, self.height * ONE)).all(-1)
        return list(pixels[inside].astype(np.int32))

    def _fill(self, pixels, colour, opacity):
        if opacity >= 1:
            cv2.fillPoly(self.image, pixels, colour, cv2.LINE_AA, SHIFT)
            return
        x, y, w, h = cv2.boundingRect(np.concatenate(pixels) >> SHIFT)
        x0, x1 = max(x - 1, 0), min(x + w + 1, self.width)
        y0, y1 = max(y - 1, 0), min(y + h + 1, self.height)
        if x0 >= x1 or y0 >= y1:
            return
        part = self.image[y0:y1, x0:x1]
        over = part.copy()
        move = np.array([x0 * ONE, y0 * ONE], np.int32)
        pixels = [polygon - move for polygon in pixels]
        cv2.fillPoly(over, pixels, colour, cv2.LINE_AA, SHIFT)
        cv2.addWeighted(over, opacity, part, 1 - opacity, 0, part)

    def _plane(self, nx, ny, nz, offset):
        """Coefficients (a, b, c) of 1 / depth = a col + b row + c."""
        camera = self.camera
        a = nx / camera.focal / offset
        b = -ny / camera.focal / offset
        return (a, b, nz / offset - a * camera.cx - b * camera.cy)


def _scaled(colour, light):
    red, green, blue = colour
    return (
        min(int(red * light), 255),
        min(int(green * light), 255),
        min(int(blue * light), 255),
    )
