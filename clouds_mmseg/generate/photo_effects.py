"""Light, weather, lens and sensor of photographs, by operations on pixels.

Nothing is moved, so the label map of a photograph stays valid. Effects of
light and weather act on linear light, as they do in a camera. Depth is a
prior: a street between two rows of houses
(:func:`~clouds_mmseg.generate.restyle.street_depth`), with the sky, found by
its brightness and smoothness, behind everything.

H and W are the size of the image. Colours are RGB, float32.
"""

from collections.abc import Mapping

import cv2
import numpy as np

from clouds_mmseg.generate.restyle import HORIZON, street_depth

_GAMMA = 2.2
# Metres to the sky, and to what the prior cannot tell from it.
_SKY = 250.0
# Labels do not change, so labelled objects have to stay visible.
_LEAST_CONTRAST = 0.12
# Grey level of the mean light to which a camera exposes at night, and by how
# much at most.
_LEAST_LEVEL = 0.2
_MOST_GAIN = 4.0
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)
_NIGHT_SKY = np.array([0.30, 0.42, 0.85], np.float32)
_SUNSET = np.array([1.0, 0.52, 0.28], np.float32)
_HEAD_LIGHT = np.array([1.0, 0.93, 0.78], np.float32)


def apply_style(
    image: np.ndarray, style: Mapping[str, float], rng: np.random.Generator
) -> np.ndarray:
    """Change light, weather, lens and sensor of a photograph.

    Args:
        image: (H, W, 3) uint8 RGB.
        style: Values by name, each optional: ``exposure`` (stops),
            ``temperature`` (-1 cold to 1 warm), ``contrast`` and
            ``saturation`` (factors), ``lift`` (of the shadows, 0 to 1),
            ``sunset``, ``dark``, ``wet``, ``rain`` and ``veil`` (0 to 1),
            ``fog`` (visibility, metres), ``noise``, ``vignette``, ``jpeg``
            (0 to 1), ``blur`` and ``motion`` (pixels in an image of 1,000).
        rng: Random generator.

    Returns:
        (H, W, 3) uint8 RGB.
    """
    photo = image.astype(np.float32) / 255
    sky = sky_share(photo)
    light = photo**_GAMMA
    light = _balance(light, style.get('temperature', 0))
    if style.get('lift'):
        light = _lift(light, style['lift'])
    if style.get('wet'):
        light = _wet(light, sky, style['wet'])
    if style.get('sunset'):
        light = _sunset(light, sky, style['sunset'])
    depth = _depth(light, sky)
    if style.get('dark'):
        light = _darken(light, sky, depth, style['dark'])
    if style.get('fog'):
        light = _fog(light, depth, style, rng)
    if style.get('veil'):
        light = _veil(light, style['veil'], rng)
    if style.get('rain'):
        light = _rain(light, style['rain'], rng)
    light = _lens(light, style, rng)
    light = _expose(light, style.get('exposure', 0))
    light = _sensor_noise(light, style.get('noise', 0), rng)
    photo = _develop(light, style)
    image = np.clip(photo * 255 + 0.5, 0, 255).astype(np.uint8)
    if style.get('jpeg'):
        image = _compress(image, style['jpeg'])
    return image


def sky_share(photo: np.ndarray) -> np.ndarray:
    """Guess which pixels are sky.

    Args:
        photo: (H, W, 3) in [0, 1].

    Returns:
        (H, W) in [0, 1]: bright, smooth, above the horizon, and without
        anything else above.
    """
    height, width = photo.shape[:2]
    luma = photo @ _LUMA
    size = max(width // 100, 1)
    mean = _box(luma, size)
    rough = np.sqrt(np.maximum(_box(luma**2, size) - mean**2, 0))
    rows = (np.arange(height, dtype=np.float32)[:, None] + 0.5) / height
    bright = np.float32(np.percentile(mean[: max(height // 3, 1)], 95))
    # Warm surfaces are walls, however bright.
    cold = photo[..., 2] - photo[..., 0]
    like = _step((luma - 0.72 * bright) / 0.07) * _step((cold + 0.06) / 0.03)
    like = like * _step((HORIZON + 0.08 - rows) / 0.03)
    like = like * np.float32(np.clip((bright - 0.25) / 0.2, 0, 1))
    core = like * np.exp(-((rough / 0.06) ** 2))
    # What stands in front of the sky hides all below it in its column; thin
    # poles and wires do not.
    blocked = cv2.GaussianBlur(1 - core, (0, 0), max(width / 80, 0.5))
    hidden = np.cumsum(np.clip(blocked - 0.5, 0, 1), axis=0) / height
    core = core * np.exp(-((hidden / 0.04) ** 2))
    # Up to the very edge, and between the twigs: a seam would shine at night.
    reach = max(width // 24, 1)
    near = cv2.dilate(core, np.ones((reach, reach), np.uint8))
    share = like * _box(near, max(reach // 4, 1))
    return np.clip(_guided(luma, share, max(width // 200, 1)), 0, 1)


def fourier_transfer(
    image: np.ndarray, reference: np.ndarray, reach: float
) -> np.ndarray:
    """Take the low frequencies' amplitude of another image (FDA).

    The window is a Gaussian: a box, as in the original, leaves ripples.

    Args:
        image: (H, W, 3) uint8 RGB.
        reference: Of any size, uint8 RGB.
        reach: Width of the window, as a share of the spectrum.

    Returns:
        (H, W, 3) uint8 RGB.
    """
    height, width = image.shape[:2]
    other = cv2.resize(
        reference, (width, height), interpolation=cv2.INTER_AREA
    )
    vertical = np.fft.fftfreq(height)[:, None]
    across = np.fft.rfftfreq(width)[None]
    window = np.exp(-(vertical**2 + across**2) / (2 * reach**2))[..., None]
    own = np.fft.rfft2(image.astype(np.float32), axes=(0, 1))
    taken = np.abs(np.fft.rfft2(other.astype(np.float32), axes=(0, 1)))
    size = np.abs(own)
    ratio = (size + window * (taken - size)) / np.maximum(size, 1e-6)
    # A frequency that the image hardly has would become a ripple.
    spectrum = own * np.clip(ratio, 0, 4)
    found = np.fft.irfft2(spectrum, s=(height, width), axes=(0, 1))
    return np.clip(found + 0.5, 0, 255).astype(np.uint8)


def colour_transfer(
    image: np.ndarray, reference: np.ndarray, share: float
) -> np.ndarray:
    """Take mean and spread of the colours of another image (Reinhard).

    Args:
        image: (H, W, 3) uint8 RGB.
        reference: Of any size, uint8 RGB.
        share: Of the change, in [0, 1].

    Returns:
        (H, W, 3) uint8 RGB.
    """

    def lab(picture):
        picture = picture.astype(np.float32) / 255
        return cv2.cvtColor(picture, cv2.COLOR_RGB2Lab)

    own, other = lab(image), lab(reference)
    mean, spread = own.mean((0, 1)), own.std((0, 1))
    # A wider range of factors shows the blocks of JPEG files.
    factor = np.clip(other.std((0, 1)) / np.maximum(spread, 1e-3), 0.5, 1.8)
    moved = (own - mean) * factor + other.mean((0, 1))
    mixed = (own + np.float32(share) * (moved - own)).astype(np.float32)
    found = cv2.cvtColor(mixed, cv2.COLOR_Lab2RGB)
    return np.clip(found * 255 + 0.5, 0, 255).astype(np.uint8)


def _step(values):
    """Smooth step around 0, from 0 at -1 to 1 at 1."""
    share = np.clip((values + 1) / 2, 0, 1)
    return (share * share * (3 - 2 * share)).astype(np.float32)


def _box(plane, radius):
    side = 2 * radius + 1
    return cv2.blur(plane, (side, side), borderType=cv2.BORDER_REFLECT)


def _guided(guide, plane, radius):
    """Smooth a plane along the edges of another (guided filter)."""
    mean, value = _box(guide, radius), _box(plane, radius)
    variance = _box(guide * guide, radius) - mean * mean
    slope = (_box(guide * plane, radius) - mean * value) / (variance + 1e-3)
    offset = value - slope * mean
    return _box(slope, radius) * guide + _box(offset, radius)


def _depth(light, sky):
    """Return the depth in metres, (H, W), smoothed along edges."""
    height, width = light.shape[:2]
    street = np.minimum(street_depth(height, width), 70)
    depth = street + sky * (_SKY - street)
    guide = np.sqrt(np.clip(light @ _LUMA, 0, 1))
    return np.clip(_guided(guide, depth, max(width // 40, 1)), 2, _SKY)


def _balance(light, temperature):
    gains = np.exp(np.array([0.30, 0.02, -0.40]) * temperature)
    gains = gains / (gains @ _LUMA)
    return light * gains.astype(np.float32)


def _lift(light, amount):
    """Light from everywhere: soft shadows, dull highlights."""
    luma = light @ _LUMA
    around = cv2.GaussianBlur(luma, (0, 0), max(light.shape[1] / 25, 1))
    even = (around.mean() + 0.02) / (around + 0.02)
    gain = np.clip(even, 0.6, 2.2) ** np.float32(0.6 * amount)
    return light * gain[..., None]


def _wet(light, sky, amount):
    """Darken the ground and mirror what stands above the horizon in it."""
    height, width = light.shape[:2]
    horizon = int(HORIZON * height)
    rows = np.arange(height)
    mirrored = light[np.clip(2 * horizon - rows, 0, height - 1)]
    # Rough asphalt smears what it mirrors, most of all towards the camera.
    spread = max(height / 14, 1)
    mirrored = cv2.GaussianBlur(
        mirrored, (0, 0), sigmaX=max(width / 90, 0.5), sigmaY=spread
    )
    ground = _step((rows / height - HORIZON - 0.06) / 0.06)[:, None]
    grey = 1 - np.clip(
        4 * (light.max(-1) - light.min(-1)) / (light.max(-1) + 0.05), 0, 1
    )
    share = (amount * ground * (0.35 + 0.65 * grey))[..., None]
    return light * (1 - 0.55 * share) + 0.28 * share * mirrored


def _sunset(light, sky, amount):
    """Warm sky near the horizon, long warm light below."""
    height = light.shape[0]
    rows = (np.arange(height, dtype=np.float32)[:, None] + 0.5) / height
    near = np.exp(-(((rows - HORIZON) / 0.22) ** 2))
    glow = (amount * sky * near)[..., None]
    luma = (light @ _LUMA)[..., None]
    light = light + glow * (1.15 * luma * _SUNSET - light) * 0.75
    return _balance(light, 0.5 * amount)


def _darken(light, sky, depth, amount):
    """Dusk (up to 0.6) and night: the sky dims most, lamps stay."""
    height, width = light.shape[:2]
    luma = light @ _LUMA
    left = np.float32((1 - amount) ** 1.7)
    rows = (np.arange(height, dtype=np.float32)[:, None] + 0.5) / height
    # What is nearly white at the height of traffic is taken for a lamp, or
    # for a window with light behind.
    lamps = _step((luma - 0.9) / 0.08) * np.float32(min(1.0, 1.6 * amount))
    lamps = lamps * np.exp(-(((rows - HORIZON - 0.08) / 0.12) ** 2))
    wide = cv2.dilate(sky, np.ones((3, 3), np.uint8))
    lamps = lamps * np.clip(1 - 2 * _box(wide, max(width // 60, 1)), 0, 1)
    tint = 1 + np.float32(amount) * (
        np.array([0.78, 0.92, 1.25], np.float32) - 1
    )
    shade = sky[..., None] * np.float32(amount)
    gradient = (0.35 + 0.65 * np.clip(rows / HORIZON, 0, 1))[..., None]
    sky_light = luma[..., None] * _NIGHT_SKY * gradient
    scene = light + shade * (sky_light - light)
    dimmed = scene * left * (1 - 0.45 * shade) * tint
    # Colours fade where there is little light.
    grey = (dimmed @ _LUMA)[..., None]
    dimmed = grey + (dimmed - grey) * np.float32(1 - 0.45 * amount)
    if amount > 0.6:
        columns = np.linspace(-1, 1, width, dtype=np.float32)[None]
        beam = np.exp(-((columns / 0.7) ** 2)) / (1 + (depth / 14) ** 2)
        beam = beam * _step((rows - HORIZON - 0.05) / 0.07)
        power = np.float32(0.9 * (amount - 0.6))
        dimmed = dimmed + power * beam[..., None] * light * _HEAD_LIGHT
    kept = dimmed + lamps[..., None] * (0.5 * light - dimmed)
    shine = cv2.GaussianBlur(
        lamps[..., None] * light, (0, 0), max(width / 70, 0.8)
    )
    return kept + 0.25 * shine * _HEAD_LIGHT


def _fog(light, depth, style, rng):
    """Fog of one density; its light is that of the sky."""
    tone = rng.uniform(0.42, 0.72)
    tint = np.float32(tone) * rng.uniform(0.94, 1.06, 3).astype(np.float32)
    air = tint * np.float32((1 - style.get('dark', 0)) ** 1.7)
    left = np.exp(-3 * depth / np.float32(style['fog']))
    left = np.maximum(left, _LEAST_CONTRAST)[..., None]
    return air + (light - air) * left


def _veil(light, amount, rng):
    """Stray light of a low sun in the lens, from one upper corner."""
    height, width = light.shape[:2]
    rows = np.linspace(0, 1, height, dtype=np.float32)[:, None]
    columns = np.linspace(0, 1, width, dtype=np.float32)[None]
    x, y = rng.uniform(-0.2, 1.2), rng.uniform(-0.3, 0.1)
    distance = (columns - x) ** 2 + (rows - y) ** 2
    shine = np.float32(0.5 * amount) * np.exp(-distance / 0.45)
    return light + shine[..., None] * _SUNSET**0.5


def _rain(light, amount, rng):
    """Streaks in two distances, and the haze of those that are not seen."""
    height, width = light.shape[:2]
    haze = np.float32(0.12 * amount)
    level = np.float32(np.percentile(light @ _LUMA, 70))
    light = light + haze * (level - light)
    slope = rng.uniform(-0.25, 0.25)
    for length, share, strength in ((0.035, 0.006, 0.20), (0.09, 0.0012, 0.3)):
        drops = rng.random((height, width), np.float32)
        drops = (drops < share * (0.4 + 0.6 * amount)).astype(np.float32)
        streaks = cv2.filter2D(drops, -1, _line(length * height, slope))
        streaks = cv2.GaussianBlur(streaks, (0, 0), max(width / 1600, 0.4))
        streaks = np.clip(streaks, 0, 1.5) * np.float32(strength * amount)
        shown = np.maximum(1.25 * level, 0.03)
        light = light + streaks[..., None] * (shown - 0.5 * light)
    return light


def _line(length, slope):
    """Kernel of a line, whose values are 1."""
    size = max(int(length) | 1, 3)
    kernel = np.zeros((size, size), np.float32)
    half = size // 2
    shift = round(slope * half)
    cv2.line(
        kernel, (half - shift, 0), (half + shift, size - 1), 1.0, 1,
        cv2.LINE_AA,
    )  # fmt: skip
    return kernel


def _lens(light, style, rng):
    """Blur of focus and of motion, and vignetting."""
    height, width = light.shape[:2]
    blur = style.get('blur', 0) * width / 1000
    if blur > 0.2:
        light = cv2.GaussianBlur(light, (0, 0), blur)
    motion = style.get('motion', 0) * width / 1000
    if motion > 1:
        # A car shakes up and down more than to the sides.
        kernel = _line(motion, rng.uniform(-0.6, 0.6))
        light = cv2.filter2D(light, -1, kernel / kernel.sum())
    if style.get('vignette'):
        rows = np.linspace(-1, 1, height, dtype=np.float32)[:, None]
        columns = np.linspace(-1, 1, width, dtype=np.float32)[None]
        edge = (rows**2 + columns**2) / 2
        light = light * (1 - np.float32(style['vignette']) * edge)[..., None]
    return light


def _expose(light, stops):
    """Expose by some stops, and longer where the picture would be black."""
    light = light * np.float32(2.0**stops)
    level = float(light.mean()) ** (1 / _GAMMA)
    if level < _LEAST_LEVEL:
        gain = (_LEAST_LEVEL / max(level, 1e-3)) ** _GAMMA
        light = light * np.float32(min(gain, _MOST_GAIN))
    return light


def _sensor_noise(light, amount, rng):
    """Noise that grows with the root of the light, a little coloured."""
    if not amount:
        return light
    height, width = light.shape[:2]
    grey = rng.standard_normal((height, width, 1), np.float32)
    colour = rng.standard_normal((height, width, 3), np.float32)
    grain = 0.75 * grey + 0.65 * colour
    # Developing a photograph correlates the noise of neighbours.
    grain = cv2.GaussianBlur(grain, (0, 0), 0.6) / np.float32(0.47)
    level = np.float32(0.001 * amount)
    return light + grain * np.sqrt(level * np.maximum(light, 0) + level**2)


def _develop(light, style):
    """Turn light into the values of a picture: tone curve and colour."""
    light = np.maximum(light, 0)
    # Highlights run into white slowly.
    bend = np.float32(0.75)
    over = np.maximum(light - bend, 0)
    light = np.minimum(light, bend) + (1 - bend) * (
        1 - np.exp(-over / (1 - bend))
    )
    photo = light ** np.float32(1 / _GAMMA)
    centre = np.float32(photo.mean())
    photo = centre + (photo - centre) * np.float32(style.get('contrast', 1))
    grey = (photo @ _LUMA)[..., None]
    return grey + (photo - grey) * np.float32(style.get('saturation', 1))


def _compress(image, amount):
    """Store and read as JPEG, of quality 95 down to 35."""
    quality = round(95 - 60 * amount)
    _, payload = cv2.imencode(
        '.jpg', image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality]
    )
    found = cv2.imdecode(payload, cv2.IMREAD_COLOR)
    return np.ascontiguousarray(found[..., ::-1])
