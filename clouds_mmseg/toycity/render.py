"""Rendering: seed and style -> image and label map."""

import math
from collections.abc import Sequence

import cv2
import numpy as np

from clouds_mmseg.toycity.camera import NEAR, Camera, expose
from clouds_mmseg.toycity.canvas import Canvas
from clouds_mmseg.toycity.scene import sample_scene
from clouds_mmseg.toycity.solids import Item
from clouds_mmseg.toycity.styles import Look, Style, get_style, mix
from clouds_mmseg.toycity.weather import (
    View,
    add_flakes,
    add_fog,
    add_rain,
    add_snow_cover,
    add_texture,
    add_wetness,
    darken,
)
from clouds_mmseg.utils.errors import UserError

# Counts up when the same seed gives another image than before.
VERSION = 4
# The image is painted so many times larger in both directions.
OVERSAMPLING = 2
SUN = (-0.48, 0.72, -0.5)
MIN_SIZE = 32


def render_scene(
    seed: int, style: str | Style, size: tuple[int, int] = (256, 128)
) -> tuple[np.ndarray, np.ndarray]:
    """Render one street scene.

    Args:
        seed: Not negative. Styles with equal camera ranges show the same
            street for the same seed.
        style: A name of ``STYLES``, or any style.
        size: Width and height in pixels, 32 or more.

    Returns:
        The image, (H, W, 3) uint8 RGB, and the label, (H, W) uint8 of train
        ids 0 to 18; no pixel is ignored.

    Raises:
        UserError: The style is unknown, or the size is too small.
    """
    style = get_style(style)
    width, height = check_size(size)
    layout, looks, lens, weather = np.random.SeedSequence(seed).spawn(4)
    scene = sample_scene(layout)
    canvas = _canvas(style, width, height, np.random.default_rng(lens))
    look = Look(style, np.random.default_rng(looks))
    _paint_sky(canvas, look)
    scene.street.draw(canvas, look)
    for item in visible_items(
        scene.items, canvas.camera, canvas.width, canvas.height
    ):
        item.draw(canvas, look)
    image = cv2.resize(
        canvas.image, (width, height), interpolation=cv2.INTER_AREA
    )
    view = View(canvas, scene, OVERSAMPLING)
    rng = np.random.default_rng(weather)
    image = _weather(image / np.float32(255), view, style, rng)
    return expose(image, style, rng), view.label


def check_size(size: Sequence[int]) -> tuple[int, int]:
    """Width and height as integers.

    Raises:
        UserError: They are no two whole numbers of at least 32.
    """
    try:
        width, height = (int(v) for v in size)
        whole = (width, height) == tuple(size)
    except (TypeError, ValueError):
        whole = False
    if not whole or min(width, height) < MIN_SIZE:
        raise UserError(
            f'size must be (width, height) in whole pixels, each at least '
            f'{MIN_SIZE}, got {size!r}'
        )
    return width, height


def paint_order(boxes: np.ndarray, eye: float) -> list[int]:
    """Order in which boxes on the ground are painted, hidden ones first.

    Two upright boxes that do not overlap on the ground are parted by a line
    along or across the street; the one on the camera's side of it can only
    be in front.

    Args:
        boxes: Footprints (N, 4) as (x0, x1, z0, z1) in metres.
        eye: Position of the camera across the street in metres; it
            stands at z = 0.

    Returns:
        Indices into ``boxes``.
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
        # Overlapping boxes can wait for one another, and so do those on
        # different sides of the camera: then the farthest goes, which once
        # in a hundred layouts is not the hidden one.
        pool = ready if ready.any() else waiting > 0
        index = int(np.argmax(np.where(pool, far, -np.inf)))
        order.append(index)
        waiting -= front[:, index]
        waiting[index] = -len(boxes)
    return order


def visible_items(
    items: Sequence[Item], camera: Camera, width: int, height: int
) -> list[Item]:
    """Items that are in the image and not behind solid ones.

    Args:
        items: Objects that do not overlap.
        camera: Projection.
        width: Of the canvas in pixels.
        height: Of the canvas in pixels.

    Returns:
        In the order to paint them.
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


def _canvas(style, width, height, rng):
    width, height = width * OVERSAMPLING, height * OVERSAMPLING
    camera = Camera(
        focal=rng.uniform(*style.focal) * width,
        cx=width / 2,
        cy=rng.uniform(*style.horizon) * height,
        x=rng.uniform(-0.4, 0.4),
        height=rng.uniform(*style.camera_height),
        yaw=math.radians(rng.uniform(*style.yaw)),
    )
    return Canvas((width, height), camera, sun=SUN, ambient=style.ambient)


def _paint_sky(canvas, look):
    width, horizon = canvas.width, max(canvas.camera.cy, 1)
    top, low = look.pick('sky_top'), look.pick('sky_low')
    cover = look.style.clouds
    if cover >= 1:
        top = mix(top, low, 0.7)
    share = np.clip(np.arange(canvas.height) / horizon, 0, 1)[:, None, None]
    canvas.image[:] = top + share * np.subtract(low, top)
    cloud = look.pick('cloud')
    for _ in range(round(cover * 12)):
        x, y, size, *puffs = look.rng.random(11).tolist()
        size = (0.03 + 0.06 * size) * width
        for a, b in zip(puffs[::2], puffs[1::2], strict=True):
            at = (
                int(x * width + (3.2 * a - 1.6) * size),
                int(0.8 * y * horizon + (0.4 * b - 0.2) * size),
            )
            axes = (int(size), int(size * 0.32))
            cv2.ellipse(
                canvas.image, at, axes, 0, 0, 360, cloud, -1, cv2.LINE_AA
            )


def _weather(image, view, style, rng):
    """Apply the weather of a style, from the surfaces to the camera."""
    if style.texture:
        image = add_texture(image, view, style.texture, rng)
    if style.snow_cover[1]:
        amount = rng.uniform(*style.snow_cover)
        image = add_snow_cover(image, view, amount, rng)
    if style.wetness[1]:
        image = add_wetness(image, view, rng.uniform(*style.wetness), rng)
    if style.darkness[1]:
        image = darken(image, view, rng.uniform(*style.darkness))
    if style.visibility:
        visibility = rng.uniform(*style.visibility)
        image = add_fog(image, view, visibility, style.fog_colour)
    if style.rain[1]:
        image = add_rain(image, rng.uniform(*style.rain), rng)
    if style.snowfall[1]:
        image = add_flakes(image, rng.uniform(*style.snowfall), rng)
    return image
