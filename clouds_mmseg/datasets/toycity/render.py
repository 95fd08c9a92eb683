"""From a seed and a style to a picture and its label map."""

import math

import cv2
import numpy as np

from clouds_mmseg.datasets.toycity.canvas import SKY, Camera, Canvas
from clouds_mmseg.datasets.toycity.look import Look, mix
from clouds_mmseg.datasets.toycity.scene import sample_scene
from clouds_mmseg.datasets.toycity.styles import get_style
from clouds_mmseg.datasets.toycity.weather import (
    View,
    add_flakes,
    add_fog,
    add_rain,
    add_snow_cover,
    add_texture,
    add_wetness,
    darken,
    expose,
)
from clouds_mmseg.utils.errors import UserError

# Counts up when the same seed gives another picture than before.
VERSION = 1
# The picture is painted so many times larger in both directions.
OVERSAMPLING = 2
SUN = (-0.48, 0.72, -0.5)
MIN_SIZE = 32


def render_scene(seed, style, size=(256, 128)):
    """Render one street scene.

    Args:
        seed (int): Not negative. Styles with equal camera ranges show the
            same street for the same seed.
        style (str | Style): A name of ``STYLES``, or any style.
        size (tuple[int, int]): Width and height in pixels, 32 or more.

    Returns:
        tuple[np.ndarray, np.ndarray]: The image (H, W, 3) uint8 RGB, and the
        label (H, W) uint8 of train ids 0 to 18; no pixel is ignored.

    Raises:
        UserError: The style is not known, or the size is too small.
    """
    style = get_style(style)
    width, height = check_size(size)
    layout, looks, lens, weather = np.random.SeedSequence(seed).spawn(4)
    scene = sample_scene(layout)
    rng = np.random.default_rng(lens)
    scale = OVERSAMPLING
    camera = Camera(
        focal=rng.uniform(*style.focal) * width * scale,
        cx=width * scale / 2,
        cy=rng.uniform(*style.horizon) * height * scale,
        x=rng.uniform(-0.4, 0.4),
        height=rng.uniform(*style.camera_height),
        yaw=math.radians(rng.uniform(*style.yaw)),
    )
    canvas = Canvas(
        (width * scale, height * scale), camera, sun=SUN,
        ambient=style.ambient,
    )  # fmt: skip
    look = Look(style, np.random.default_rng(looks))
    _paint_sky(canvas, look)
    scene.street.draw(canvas, look)
    for index in paint_order(
        np.array([item.box for item in scene.items]), camera.x
    ):
        scene.items[index].draw(canvas, look)
    image = cv2.resize(
        canvas.image, (width, height), interpolation=cv2.INTER_AREA
    )
    view = _look_up(canvas, scene, (width, height))
    image = image.astype(np.float32) / 255
    image = _weather(image, view, style, np.random.default_rng(weather))
    image = np.clip(image * 255 + 0.5, 0, 255).astype(np.uint8)
    return image, view.label


def check_size(size):
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


def paint_order(boxes, eye):
    """Order in which boxes on the ground are painted, hidden ones first.

    Two upright boxes that do not overlap on the ground are parted by a line
    along or across the street; the one on the camera's side of it can only
    be in front.

    Args:
        boxes (np.ndarray): Footprints (N, 4) as (x0, x1, z0, z1).
        eye (float): Place of the camera across the street; it stands at
            z = 0.

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
    left = np.ones(len(boxes), bool)
    order = []
    for _ in range(len(boxes)):
        ready = left & (waiting == 0)
        # Overlapping boxes can wait for one another: then the farthest goes.
        pool = ready if ready.any() else left
        index = int(np.argmax(np.where(pool, far, -np.inf)))
        order.append(index)
        left[index] = False
        waiting = waiting - front[:, index]
    return order


def _paint_sky(canvas, look):
    height, width = canvas.ids.shape
    top, low = look.pick('sky_top'), look.pick('sky_low')
    if look.style.clouds >= 1:
        top = mix(top, low, 0.7)
    horizon = max(canvas.camera.cy, 1)
    share = np.clip(np.arange(height) / horizon, 0, 1)[:, None, None]
    canvas.image[:] = np.asarray(top) + share * (
        np.asarray(low) - np.asarray(top)
    )
    cloud = look.pick('cloud')
    for _ in range(int(round(look.style.clouds * 12))):
        x, y = look.rng.uniform(0, width), look.rng.uniform(0, 0.8 * horizon)
        size = look.rng.uniform(0.03, 0.09) * width
        for _ in range(4):
            at = (
                int(x + look.rng.uniform(-1.6, 1.6) * size),
                int(y + look.rng.uniform(-0.2, 0.2) * size),
            )
            axes = (int(size), int(size * 0.32))
            cv2.ellipse(canvas.image, at, axes, 0, 0, 360, cloud, -1,
                        cv2.LINE_AA)  # fmt: skip


def _look_up(canvas, scene, size):
    """Everything known about the pixels, at the size of the picture."""
    width, height = size
    camera = canvas.camera
    half = OVERSAMPLING // 2
    ids = canvas.ids[half::OVERSAMPLING, half::OVERSAMPLING]
    cols = np.arange(width, dtype=np.float32) * OVERSAMPLING + half
    rows = np.arange(height, dtype=np.float32)[:, None] * OVERSAMPLING + half
    planes = np.array(canvas.planes, np.float32)[ids]  # (H, W, 3)
    nearness = planes[..., 0] * cols + planes[..., 1] * rows + planes[..., 2]
    nearness = np.clip(nearness, 0, 1.7)
    depth = 1 / np.maximum(nearness, 1 / 500)
    right = (cols - camera.cx) / camera.focal * depth
    cos, sin = math.cos(camera.yaw), math.sin(camera.yaw)
    points = np.stack(
        [
            cos * right + sin * depth + camera.x,
            (camera.cy - rows) / camera.focal * depth + camera.height,
            cos * depth - sin * right,
        ],
        -1,
    )
    lamps = [getattr(item, 'lamp', None) for item in scene.items]
    return View(
        label=np.array(canvas.classes, np.uint8)[ids],
        nearness=np.where(ids == 0, 0, nearness).astype(np.float32),
        points=points.astype(np.float32),
        up=np.array(canvas.normals, np.float32)[ids][..., 1],
        rough=np.array(canvas.roughness, np.float32)[ids],
        glow=np.array(canvas.glows, np.float32)[ids] / 255,
        lamps=np.array([p for p in lamps if p], np.float32).reshape(-1, 3),
        horizon=camera.cy / OVERSAMPLING,
    )


def _weather(image, view, style, rng):
    image = add_texture(image, view, style, rng)
    image = add_snow_cover(image, view, rng.uniform(*style.snow_cover), rng)
    image = add_wetness(image, view, rng.uniform(*style.wetness), rng)
    image = darken(image, view, rng.uniform(*style.darkness), style, rng)
    if style.visibility:
        visibility = rng.uniform(*style.visibility)
        image = add_fog(image, view, visibility, style.fog_colour)
    if style.rain[1]:
        image = add_rain(image, rng.uniform(*style.rain), rng)
    if style.snowfall[1]:
        image = add_flakes(image, rng.uniform(*style.snowfall), rng)
    return expose(image, style, rng)


__all__ = ['SKY', 'VERSION', 'check_size', 'paint_order', 'render_scene']
