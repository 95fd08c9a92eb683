"""Weather and light changes of ToyCity's images by pixel operations.

Photographs are changed by :mod:`~clouds_mmseg.generate.photo_effects`. Nothing
is moved, so the label map of the image stays valid. Depth is not known; it is
approximated by a straight street between two rows of houses.

H and W are the size of the image; colours are float32 in 0 to 1.
"""

import cv2
import numpy as np

# Row of the horizon in heights of the image; camera height and distance of
# the houses times the focal length, in metres times heights and widths of the
# image: what a car's camera has, roughly.
HORIZON = 0.43
_DOWN = 2.6
_ASIDE = 8.0
_FAR = 80.0
# Labels do not change, so labelled objects have to stay visible.
_LEAST_CONTRAST = 0.15
_MOST_DARKNESS = 0.85


def restyle(
    image: np.ndarray, style: dict, rng: np.random.Generator
) -> np.ndarray:
    """Change weather, light, lens and sensor of an image.

    Args:
        image: (H, W, 3) uint8 RGB.
        style: Of :func:`~clouds_mmseg.generate.toycity.style_for`.
        rng: Random generator.

    Returns:
        (H, W, 3) uint8 RGB.
    """
    style = {
        name: value[0]
        if isinstance(value, tuple) and len(value) == 2
        else value
        for name, value in style.items()
    }
    depth = street_depth(*image.shape[:2])
    picture = _recolour(image, rng)
    picture = picture * _texture(image.shape[:2], style['texture'], rng)
    if 'snow_cover' in style:
        picture = _snow(picture, style['snow_cover'], rng)
    if 'wetness' in style:
        picture = _wet(picture, style['wetness'])
    if 'darkness' in style:
        amount = min(style['darkness'], _MOST_DARKNESS)
        picture = _darken(picture, amount, depth)
    if 'visibility' in style:
        left = np.exp(-3 * depth / style['visibility'])
        left = np.maximum(left, _LEAST_CONTRAST)[..., None]
        fog = np.array(style['fog_colour'], np.float32) / 255
        fog = fog * (1 - 0.8 * style.get('darkness', 0))
        picture = fog + (picture - fog) * left
    for name, length, tone in (('rain', 0.09, 0.8), ('snowfall', 0, 0.95)):
        if name in style:
            picture = _fall(picture, style[name], length, tone, rng)
    picture = _expose(picture, style, rng)
    return np.clip(picture * 255 + 0.5, 0, 255).astype(np.uint8)


def street_depth(height: int, width: int) -> np.ndarray:
    """Return the depth in metres, (H, W), of an empty street."""
    rows = (np.arange(height, dtype=np.float32)[:, None] + 0.5) / height
    columns = (np.arange(width, dtype=np.float32)[None] + 0.5) / width
    road = _DOWN / np.maximum(rows - HORIZON, 1e-3)
    houses = _ASIDE / np.maximum(np.abs(columns - 0.5), 1e-3)
    return np.minimum(np.minimum(road, houses), _FAR)


def _recolour(image, rng):
    """Turn hues a little and bend the tone of each channel."""
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
    hsv[..., 0] = (hsv[..., 0].astype(int) + rng.integers(-14, 15)) % 180
    picture = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB).astype(np.float32) / 255
    return picture ** rng.uniform(0.75, 1.35, 3).astype(np.float32)


def smooth_noise(
    shape: tuple[int, int], step: int, rng: np.random.Generator
) -> np.ndarray:
    """Return smooth noise around 0, about -1 to 1.

    Args:
        shape: H and W.
        step: Pixels between two independent values.
        rng: Random generator.
    """
    height, width = shape
    coarse = rng.standard_normal((height // step + 2, width // step + 2))
    return cv2.resize(
        coarse.astype(np.float32), (width, height),
        interpolation=cv2.INTER_CUBIC,
    )  # fmt: skip


def _texture(shape, amount, rng):
    """Factor (H, W, 1) with the stains and grain that flat colours lack."""
    width = shape[1]
    stains = smooth_noise(shape, max(width // 12, 2), rng)
    grain = smooth_noise(shape, max(width // 100, 1), rng)
    factor = 1 + amount * (0.08 * stains + 0.08 * grain)
    return np.clip(factor, 0.4, 1.6)[..., None].astype(np.float32)


def _snow(picture, amount, rng):
    """White patches below the horizon, where colours are dull."""
    height, width = picture.shape[:2]
    dull = 1 - np.clip(3 * (picture.max(-1) - picture.min(-1)), 0, 1)
    rows = np.linspace(0, 1, height, dtype=np.float32)[:, None]
    ground = np.clip((rows - HORIZON) * 8, 0.15, 1)
    patches = smooth_noise((height, width), max(width // 32, 2), rng)
    share = amount * ground * dull * np.clip(patches + 1.2, 0, 1)
    white = np.array([0.90, 0.92, 0.96], np.float32)
    return picture + (white - picture) * share[..., None]


def _wet(picture, amount):
    """Darken the road and mirror the upper half in it."""
    height, width = picture.shape[:2]
    horizon = int(HORIZON * height)
    rows = np.arange(height)
    mirrored = picture[np.clip(2 * horizon - rows, 0, height - 1)]
    mirrored = cv2.GaussianBlur(mirrored, (0, 0), max(width / 100, 0.5))
    share = np.clip((rows - horizon) / max(height - horizon, 1), 0, 1)
    share = (amount * 0.6 * share)[:, None, None].astype(np.float32)
    return picture * (1 - 0.4 * share) * (1 - share) + mirrored * share


def _darken(picture, amount, depth):
    """Night in bluish light, with head lights on the road ahead."""
    height, width = picture.shape[:2]
    columns = np.linspace(-1, 1, width, dtype=np.float32)[None]
    rows = np.linspace(0, 1, height, dtype=np.float32)[:, None]
    beam = np.exp(-((columns / 0.6) ** 2)) / (1 + (depth / 16) ** 2)
    beam = beam * np.clip((rows - HORIZON + 0.06) * 8, 0, 1)
    ambient = (1 - amount) * np.array([0.8, 0.88, 1.1], np.float32)
    lit = 0.6 * beam[..., None] * np.array([1.0, 0.96, 0.86], np.float32)
    return picture * (ambient + amount * lit)


def _fall(picture, per_thousand, length, tone, rng):
    """Streaks of rain (length in heights of the image) or flakes."""
    height, width = picture.shape[:2]
    layer = np.zeros((height, width), np.float32)
    count = int(per_thousand * height * width / 1000)
    slope = rng.uniform(-0.2, 0.2)
    for x, y, size in rng.uniform(0, 1, (count, 3)):
        start = (int(x * width), int(y * height))
        extent = length * height * (0.5 + size)
        end = (int(start[0] + slope * extent), int(start[1] + extent))
        # At least one pixel, however small the image.
        thick = 1 if length else max(1, round(width / 256 * (0.5 + size)))
        cv2.line(layer, start, end, 0.25 + 0.5 * size, thick, cv2.LINE_AA)
    return picture + (np.float32(tone) - picture) * layer[..., None]


def _expose(picture, style, rng):
    """Lens and sensor: blur, white balance, colour, tone, noise."""
    picture = picture.astype(np.float32)
    blur = style['blur'] * picture.shape[1] / 1000
    if blur > 0.05:
        picture = cv2.GaussianBlur(picture, (0, 0), blur)
    picture = picture * np.array(style['white'], np.float32)
    grey = picture.mean(-1, keepdims=True)
    picture = grey + (picture - grey) * np.float32(style['saturation'])
    picture = (picture * style['exposure'] - 0.5) * style['contrast'] + 0.5
    noise = rng.standard_normal(picture.shape, np.float32)
    return picture + noise * np.float32(style['noise'] / 255)
