"""Painting of polygons with depth, class and visibility buffers."""

import math
from functools import cached_property

import cv2
import numpy as np

from clouds_mmseg.toycity.camera import NEAR, Face, clip_near
from clouds_mmseg.toycity.styles import ROAD, SIDEWALK, TERRAIN

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
        size (tuple[int, int]): Width and height in pixels.
        camera (Camera): Projection in the same pixels.
        sun (Sequence[float]): Unit vector (x, y, z) towards the light.
        ambient (float): Share of the light that comes from everywhere.
    """

    def __init__(self, size, camera, *, sun=(0, 1, 0), ambient=0.7):
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
        face,
        outline,
        colour,
        class_id,
        *,
        rough=0.3,
        shade=True,
        opacity=1.0,
    ):
        """Paint an outline on a face as a surface of its own.

        Args:
            face (Face): The plane.
            outline (Sequence): Corners (u, v) in order.
            colour (tuple[int, int, int]): RGB, before shading.
            class_id (int): Train id.
            rough (float): Strength of texture, 0 to 1.
            shade (bool): Whether its slope to the sun darkens it.
            opacity (float): Share of the colour that covers what is behind;
                the class covers it in any case.

        Returns:
            Face: The face with its surface and light; None when the outline
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

    def detail(self, face, outlines, colour, *, glow=None, opacity=1.0):
        """Paint on a painted face: no new depth, no new class.

        Args:
            face (Face): Where; None (a face out of sight) paints nothing.
            outlines (Sequence): Outlines of (u, v) corners that do not
                overlap; an array (N, P, 2) where there are many.
            colour (tuple[int, int, int]): RGB before shading.
            glow (tuple[int, int, int]): RGB sent out, None for none.
            opacity (float): Share of the colour.
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
            for table in (
                self.classes, self.planes, self.ups, self.roughness
            ):  # fmt: skip
                table.append(table[face.surface])
            self.glows.append(glow)
            cv2.fillPoly(self.ids, pixels, number, cv2.LINE_8, SHIFT)

    def scale_at(self, z):
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


# Depth in metres that stands for the sky's.
INFINITY = 500


class View:
    """Class, depth, position and slope of the surface at each pixel.

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


def paint_order(boxes, eye):
    """Order in which boxes on the ground are painted, hidden ones first.

    Two upright boxes that do not overlap on the ground are parted by a line
    along or across the street; the one on the camera's side of it can only
    be in front.

    Args:
        boxes (np.ndarray): Footprints (N, 4) as (x0, x1, z0, z1) in metres.
        eye (float): Place of the camera across the street in metres; it
            stands at z = 0.

    Returns:
        list[int]: Indices into ``boxes``.
    """
    x0, x1, z0, z1 = boxes.T
    nearer = z1[:, None] <= z0[None]
    beside = (x1[:, None] <= x0[None]) & (eye <= x0[None])
    beside |= (x0[:, None] >= x1[None]) & (eye >= x1[None])
    front = nearer | (beside & ~nearer & ~nearer.T)
    waiting = front.sum(1)
    far = z0 + z1
    order = []
    for _ in range(len(boxes)):
        ready = waiting == 0
        # Overlapping boxes can wait for one another: then the farthest goes.
        pool = ready if ready.any() else waiting > 0
        index = int(np.argmax(np.where(pool, far, -np.inf)))
        order.append(index)
        waiting -= front[:, index]
        waiting[index] = -len(boxes)
    return order


def visible_items(items, camera, width, height):
    """Items that are in the picture and not behind solid ones.

    Args:
        items (Sequence[Item]): Objects that do not overlap.
        camera (Camera): Projection.
        width (int): Of the canvas in pixels.
        height (int): Of the canvas in pixels.

    Returns:
        list[Item]: In the order to paint them.
    """
    boxes = np.array([item.box for item in items], float)
    reach = np.array([item.reach for item in items], float)
    wide = boxes + reach[:, None] * np.array([-1, 1, -1, 1])
    near = _corners(wide, camera)  # (N, 4, 2) right and depth
    slope = width / 2 / camera.focal
    right, depth = near[..., 0], near[..., 1]
    seen = (depth > NEAR).any(1)
    seen &= (right > -slope * depth).any(1) & (right < slope * depth).any(1)
    # Behind the near plane there is no column: such an item is kept.
    whole = (depth > NEAR).all(1)
    depth = np.maximum(depth, NEAR)
    columns = camera.cx + camera.focal * right / depth  # (N, 4)
    cover = np.full(width, float(height))
    kept = []
    inside = np.flatnonzero(seen)
    order = inside[paint_order(boxes[inside], camera.x)]
    for index in order[::-1].tolist():
        item = items[index]
        rise = (item.top - camera.height) * camera.focal
        z = depth[index]
        top = camera.cy - rise / (z.min() if rise > 0 else z.max())
        first = max(int(columns[index].min()), 0)
        last = min(int(columns[index].max()) + 1, width)
        hidden = whole[index] and (cover[first:last] <= top).all()
        if hidden:
            continue
        kept.append(item)
        if item.solid:
            _cover(cover, boxes[index], item.solid, camera)
    return kept[::-1]


def _corners(boxes, camera):
    """Camera coordinates (N, 4, 2), right and depth, of footprints."""
    x0, x1, z0, z1 = boxes.T
    x = np.stack([x0, x1, x0, x1], 1) - camera.x
    z = np.stack([z0, z0, z1, z1], 1)
    right, _, depth = camera.turn(x, 0.0, z)
    return np.stack([right, depth], -1)


def _cover(cover, box, height, camera):
    """Lower the rows above which something may still be seen."""
    x0, x1, z0, z1 = box
    edges = [((x0, z0), (x1, z0))]
    if camera.x < x0:
        edges.append(((x0, z0), (x0, z1)))
    elif camera.x > x1:
        edges.append(((x1, z0), (x1, z1)))
    for ends in edges:
        line = []
        for x, z in ends:
            right, _, depth = camera.turn(x - camera.x, 0.0, z)
            if depth <= NEAR:
                break
            scale = camera.focal / depth
            line.append(
                (
                    camera.cx + right * scale,
                    camera.cy - (height - camera.height) * scale,
                )
            )
        if len(line) < 2:
            continue
        (c0, r0), (c1, r1) = sorted(line)
        first, last = max(int(c0) + 1, 0), min(int(c1), len(cover))
        if first < last:
            rows = np.interp(np.arange(first, last), (c0, c1), (r0, r1))
            cover[first:last] = np.minimum(cover[first:last], rows)
