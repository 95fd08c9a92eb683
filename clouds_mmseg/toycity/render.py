"""Rendering: seed and style -> image and label map."""

import math

import cv2
import numpy as np

from clouds_mmseg.toycity.camera import Camera, expose
from clouds_mmseg.toycity.canvas import Canvas, View, visible_items
from clouds_mmseg.toycity.scene import sample_scene
from clouds_mmseg.toycity.styles import Look, Style, get_style, mix
from clouds_mmseg.toycity.weather import (
    add_flakes,
    add_fog,
    add_rain,
    add_snow_cover,
    add_texture,
    add_wetness,
    darken,
)
from clouds_mmseg.utils.errors import UserError

# Counts up when the same seed gives another picture than before.
VERSION = 4
# The picture is painted so many times larger in both directions.
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
    """Apply what the style asks for, in the order light meets it."""
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
