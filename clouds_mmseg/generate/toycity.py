"""Image generation with the ToyCity renderer, without a diffusion model.

The words of a prompt select ranges of style parameters and colours
(:func:`style_for`), from which a scene is drawn; ranges of the benchmark's
target domains are excluded.
"""

import colorsys
import functools
import hashlib
import re
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from clouds_mmseg.generate.backends import GeneratedImage, Request, open_source
from clouds_mmseg.generate.restyle import restyle
from clouds_mmseg.utils.errors import GenerationError, UserError

# Parameter of a style -> range; parts that a target uses are excluded.
_BASE = {
    'camera_height': (1.2, 1.9),
    'focal': (0.82, 1.2),
    'horizon': (0.36, 0.5),
    'ambient': (0.5, 0.9),
    'texture': (0.15, 0.9),
    'tint': (0.3, 1.0),
    'shadow': (0.18, 0.55),
    'clouds': (0.05, 0.55),
    'saturation': (0.3, 1.25),
    'contrast': (0.7, 1.25),
    'exposure': (0.7, 1.35),
    'blur': (0.1, 1.5),
    'noise': (0.3, 2.5),
    'vignette': (0.05, 0.4),
}
_SOFT_LIGHT = {
    'ambient': (0.75, 0.99),
    'shadow': (0.05, 0.24),
    'clouds': (0.7, 0.97),
    'exposure': (0.6, 1.35),
}
# (pattern, ranges), first match wins in each group. The renderer darkens sky
# and ground alike, so a low sun only changes colours.
_TIME = (
    (r'\b(night|after dark|midnight|nocturnal)\b',
     {'darkness': (0.6, 0.95), 'exposure': (1.0, 1.4), 'noise': (0.5, 11.0),
      'contrast': (1.0, 1.2)}),
    (r'\b(dusk|twilight|dawn|evening|blue hour)\b',
     {'darkness': (0.3, 0.58), 'exposure': (1.0, 1.35)}),
)  # fmt: skip
_WEATHER = (
    (r'\b(dense|thick|heavy) (fog|mist)\b',
     {'visibility': (20.0, 44.0), **_SOFT_LIGHT}),
    (r'\b(fog|foggy|mist|misty)\b',
     {'visibility': (25.0, 99.0), **_SOFT_LIGHT}),
    (r'\b(haze|hazy|smog|dust|sandstorm)\b', {'visibility': (80.0, 400.0)}),
    (r'\b(drizzle|light rain|light shower)\b',
     {'rain': (0.6, 1.6), 'wetness': (0.12, 0.3), **_SOFT_LIGHT}),
    (r'\b(puddles?|after (a )?rain)\b', {'wetness': (0.28, 0.85)}),
    (r'\b(rain|rainy|downpour|storm|thunderstorm)\b',
     {'rain': (1.4, 5.0), 'wetness': (0.28, 0.85),
      'visibility': (80.0, 300.0), **_SOFT_LIGHT}),
    (r'\b(blizzard|heavy snow|snowstorm)\b',
     {'snowfall': (1.5, 5.0), 'snow_cover': (0.4, 0.98),
      'visibility': (80.0, 260.0), **_SOFT_LIGHT}),
    (r'\b(melting snow|slush)\b',
     {'snow_cover': (0.2, 0.45), 'wetness': (0.12, 0.3)}),
    (r'\b(snow|snowy|snowfall|snow-covered)\b',
     {'snowfall': (0.5, 2.5), 'snow_cover': (0.3, 0.7), **_SOFT_LIGHT}),
    (r'\b(overcast|grey|gray|cloudy)\b', _SOFT_LIGHT),
    (r'\b(bright sun|sunny|hard shadows|clear)\b',
     {'ambient': (0.5, 0.65), 'shadow': (0.4, 0.6), 'clouds': (0.02, 0.25)}),
)  # fmt: skip
# Parameters that may have the values of targets.
SHARED = ('yaw', 'exposure')
# Margin around the ranges of targets, relative to the requested range.
_MARGIN = 0.02
# A range of which the targets leave less than this share is widened.
_ENOUGH = 0.15
# Parameters with an upper limit of 1.
_SHARES = (
    'ambient', 'texture', 'tint', 'shadow', 'clouds', 'vignette', 'horizon',
    'darkness', 'wetness', 'snow_cover',
)  # fmt: skip
# Parameters that Style takes as one number; the others are ranges.
_SCALARS = {'ambient', 'texture', 'tint', 'shadow', 'clouds', 'vignette'}
_YAW = (-2.5, 2.5)
# Kind of surface -> number of colours, and ranges of hue (degrees; may pass
# 360), saturation and value (0 to 1). Wide, so that a student does not learn
# one colour per kind.
RANGES = {
    'road': (2, (0, 360), (0.0, 0.14), (0.22, 0.55)),
    'paint': (1, (40, 60), (0.0, 0.6), (0.75, 1.0)),
    'sidewalk': (2, (0, 60), (0.0, 0.2), (0.45, 0.85)),
    'kerb': (1, (0, 60), (0.0, 0.1), (0.6, 0.9)),
    'terrain': (3, (35, 130), (0.25, 0.65), (0.3, 0.7)),
    'building': (7, (0, 360), (0.05, 0.6), (0.3, 0.95)),
    'roof': (2, (0, 260), (0.05, 0.5), (0.25, 0.6)),
    'window': (3, (170, 250), (0.05, 0.45), (0.15, 0.6)),
    'door': (2, (0, 360), (0.1, 0.6), (0.2, 0.5)),
    'shop': (2, (180, 260), (0.05, 0.4), (0.2, 0.45)),
    'wall': (3, (0, 80), (0.03, 0.35), (0.4, 0.8)),
    'fence': (3, (10, 60), (0.05, 0.6), (0.3, 0.95)),
    'pole': (2, (0, 360), (0.0, 0.15), (0.3, 0.65)),
    'housing': (1, (0, 120), (0.0, 0.6), (0.08, 0.25)),
    'trunk': (2, (15, 40), (0.2, 0.55), (0.2, 0.45)),
    'leaf': (4, (75, 150), (0.3, 0.75), (0.2, 0.6)),
    'sky_top': (1, (195, 230), (0.1, 0.65), (0.6, 1.0)),
    'sky_low': (1, (190, 230), (0.02, 0.25), (0.8, 1.0)),
    'cloud': (1, (200, 230), (0.0, 0.08), (0.75, 1.0)),
    'skin': (3, (15, 30), (0.25, 0.55), (0.4, 0.95)),
    'cloth': (7, (0, 360), (0.05, 0.85), (0.15, 0.95)),
    'trousers': (4, (200, 400), (0.05, 0.5), (0.1, 0.5)),
    'hair': (3, (15, 45), (0.1, 0.6), (0.1, 0.7)),
    'car': (7, (0, 360), (0.0, 0.85), (0.12, 0.97)),
    'truck': (4, (0, 360), (0.0, 0.75), (0.35, 0.95)),
    'cab': (3, (0, 360), (0.0, 0.8), (0.3, 0.95)),
    'bus': (3, (0, 360), (0.15, 0.9), (0.4, 0.95)),
    'tram': (3, (0, 360), (0.15, 0.85), (0.35, 0.9)),
    'motorcycle': (3, (0, 360), (0.05, 0.85), (0.1, 0.7)),
    'bicycle': (3, (0, 360), (0.05, 0.85), (0.15, 0.85)),
    'glass': (1, (190, 250), (0.05, 0.4), (0.15, 0.35)),
    'brick': (1, (5, 25), (0.3, 0.65), (0.4, 0.7)),
}
# Word of a prompt -> ranges that it changes.
WORD_RANGES = {
    'autumn': {'leaf': (4, (12, 60), (0.5, 0.9), (0.4, 0.85))},
    'winter': {
        'leaf': (4, (20, 50), (0.1, 0.35), (0.25, 0.5)),
        'terrain': (3, (30, 60), (0.1, 0.35), (0.35, 0.65)),
    },
    'spring': {'leaf': (4, (65, 105), (0.4, 0.75), (0.45, 0.8))},
    'desert': {
        'terrain': (3, (28, 45), (0.25, 0.5), (0.55, 0.85)),
        'building': (7, (20, 45), (0.15, 0.45), (0.5, 0.9)),
        'sidewalk': (2, (25, 45), (0.1, 0.3), (0.6, 0.85)),
    },
    'mediterranean': {
        'building': (7, (10, 55), (0.1, 0.5), (0.7, 0.98)),
        'roof': (2, (8, 22), (0.45, 0.7), (0.5, 0.75)),
    },
    'brick': {'building': (7, (2, 24), (0.3, 0.65), (0.3, 0.65))},
    'industrial': {'building': (7, (180, 260), (0.0, 0.2), (0.3, 0.75))},
    'skyscrapers': {'building': (7, (190, 240), (0.05, 0.45), (0.3, 0.9))},
    'overcast': {'sky_top': (1, (200, 230), (0.0, 0.15), (0.55, 0.85))},
    'sunset': {
        'sky_top': (1, (210, 260), (0.2, 0.5), (0.45, 0.8)),
        'sky_low': (1, (15, 45), (0.3, 0.7), (0.85, 1.0)),
    },
}
# Separates the random numbers from those of the benchmark's scenes, whose
# seeds are small integers too.
_SALT = 0x67656E657261
_PROBES = ('heavy rain at night in winter', 'a snowy sunset in the fog')
_PROBE_SIZE = (64, 32)


class ToyCityBackend:
    """Backend that renders ToyCity scenes in the style of a prompt.

    A prompt's words about weather, time, season and location set the style;
    words about objects are ignored: every scene has the usual traffic. No
    style is that of a target domain.

    In mode img2img the source image is restyled by pixel operations (colour,
    texture, haze by estimated depth, darkness, rain, snow, lens, noise),
    which move nothing, so its label stays valid.

    Args:
        render: ``(seed, style, size) -> (image, label)`` with ``style`` a
            dict of the renderer's style parameters, ``size`` (width,
            height), image (H, W, 3) uint8 RGB, label (H, W) uint8.
        mode: ``'txt2img'`` or ``'img2img'``.
        size: Width and height in pixels; in mode img2img images keep their
            own.
        avoid: Parameter of a style -> ranges that the target domains use.
        keep_labels: Whether to return the labels of the scenes, to evaluate
            pseudo labels; no training uses them.

    Raises:
        GenerationError: Labels are to be kept in mode img2img.
    """

    batch_size = 1

    def __init__(
        self,
        render: Callable[
            [int, dict, tuple[int, int]], tuple[np.ndarray, np.ndarray]
        ],
        *,
        avoid: Mapping[str, Sequence[tuple[float, float]]],
        mode: str = 'txt2img',
        size: tuple[int, int] | int = (256, 128),
        keep_labels: bool = False,
    ):
        if mode not in ('txt2img', 'img2img'):
            raise GenerationError(
                f'--mode must be txt2img or img2img, got {mode!r}'
            )
        if keep_labels and mode == 'img2img':
            raise GenerationError(
                '--keep-labels is for scenes of their own; in mode img2img '
                'each image keeps the label of its source'
            )
        self.render = render
        self.avoid = avoid
        self.mode = mode
        self.size = (size, size) if isinstance(size, int) else tuple(size)
        self.keeps_labels = keep_labels

    def recipe(self) -> dict:
        """Return what the images depend on besides prompt, seed, source."""
        recipe = dict(
            backend='toycity',
            model='toycity',
            fingerprint=self._fingerprint(),
            mode=self.mode,
        )
        if self.mode == 'txt2img':
            recipe['size'] = self.size
        return recipe

    def info(self) -> dict:
        """Return a note about the origin of the images."""
        if self.mode == 'img2img':
            return dict(
                note='restyled by operations on pixels, without a diffusion '
                'model'
            )
        return dict(
            note='ToyCity scenes, without a diffusion model; weather, time, '
            'season and place follow the prompt, objects do not. Colours, '
            'camera, light, lens, noise and weather have values that no '
            'target domain uses'
        )

    def check_prompts(self, prompts: Sequence[tuple[int, str]]) -> list[str]:
        """Return no warnings: unknown words are ignored."""
        return []

    def generate(self, requests: Sequence[Request]) -> list[GeneratedImage]:
        """Generate the images, (H, W, 3) uint8, one by one."""
        return [self._generate_one(request) for request in requests]

    def _generate_one(self, request):
        rng = _generator(request)
        if self.mode == 'img2img':
            source = np.asarray(open_source(request.source_path))
            style = style_for(request.prompt, rng, self.avoid)
            return GeneratedImage(restyle(source, style, rng))
        return self._scene(request.prompt, rng, self.size)

    def _scene(self, prompt, rng, size):
        style = style_for(prompt, rng, self.avoid)
        image, label = self.render(int(rng.integers(2**63)), style, size)
        return GeneratedImage(image, label if self.keeps_labels else None)

    def _fingerprint(self):
        """Hash small sample images, which change with the renderer."""
        avoid = {k: tuple(map(tuple, v)) for k, v in self.avoid.items()}
        return _hash_samples(self.render, self.mode, tuple(avoid.items()))


# Kept: a run may have several banks, and samples take as long as an image.
@functools.lru_cache
def _hash_samples(render, mode, avoid):
    sha256 = hashlib.sha256()
    for number, prompt in enumerate(_PROBES):
        rng = np.random.default_rng(number)
        if mode == 'txt2img':
            style = style_for(prompt, rng, dict(avoid))
            image, _ = render(int(rng.integers(2**63)), style, _PROBE_SIZE)
        else:
            width, height = _PROBE_SIZE
            source = rng.integers(0, 256, (height, width, 3), np.uint8)
            image = restyle(source, style_for(prompt, rng, dict(avoid)), rng)
        sha256.update(image.tobytes())
    return sha256.hexdigest()[:16]


def _generator(request):
    """Return the random generator of an image, from prompt and seed alone."""
    words = hashlib.sha256(request.prompt.encode()).digest()[:8]
    return np.random.default_rng(
        [_SALT, request.seed, int.from_bytes(words, 'little')]
    )


def ranges_for(prompt: str) -> dict[str, tuple[float, float]]:
    """Return the ranges of style parameters that a prompt's words select.

    Args:
        prompt: Any text; without a known word the weather is fair.

    Returns:
        Parameter of a style -> range.
    """
    text = prompt.lower()
    ranges = dict(_BASE)
    # Time comes second: at night the exposure is that of the night.
    for group in (_WEATHER, _TIME):
        for pattern, changed in group:
            if re.search(pattern, text):
                ranges.update(changed)
                break
    return ranges


def subtract_ranges(
    low: float, high: float, avoid: Iterable[tuple[float, float]]
) -> list[tuple[float, float]]:
    """Subtract ranges from a range.

    Args:
        low: Lower end.
        high: Upper end.
        avoid: Ranges to subtract, each widened by a margin.

    Returns:
        The remaining ranges, ascending, without those thinner than the
        margin.
    """
    margin = _MARGIN * (high - low)
    left = []
    for start, end in sorted(avoid):
        if start - margin > low:
            left.append((low, min(start - margin, high)))
        low = max(low, end + margin)
    left.append((low, high))
    return [(a, b) for a, b in left if b - a > margin]


def allowed_ranges(
    name: str, low: float, high: float, avoid: Sequence[tuple[float, float]]
) -> list[tuple[float, float]]:
    """Return the ranges from which a parameter may be drawn.

    Args:
        name: The parameter.
        low: Lower end of the requested range.
        high: Upper end.
        avoid: Ranges that targets use.

    Returns:
        Parts of the range, or of a wider one where the targets use nearly
        all of it.

    Raises:
        UserError: Nothing remains near the range.
    """
    limit = 1.0 if name in _SHARES else float('inf')
    start, end = low, high
    for _ in range(5):
        pieces = subtract_ranges(start, end, avoid)
        if sum(b - a for a, b in pieces) >= _ENOUGH * (high - low):
            return pieces
        half = (end - start) / 2
        start, end = max(start - half, 0.0), min(end + half, limit)
    raise UserError(
        f'{name} of generated scenes should lie near {low}..{high}, but the '
        f'target styles use all of it: {sorted(avoid)}'
    )


def style_for(
    prompt: str,
    rng: np.random.Generator,
    avoid: Mapping[str, Sequence[tuple[float, float]]],
) -> dict:
    """Draw the style of one scene.

    Args:
        prompt: Any text.
        rng: Random generator.
        avoid: Parameter -> ranges that must not be used.

    Returns:
        Keyword arguments of ToyCity's ``Style`` except its name; every
        range holds one value.

    Raises:
        UserError: ``avoid`` leaves nothing near a parameter's range.
    """
    style: dict[str, Any] = dict(yaw=_YAW)
    for name, (low, high) in ranges_for(prompt).items():
        used = () if name in SHARED else avoid.get(name, ())
        choices = allowed_ranges(name, low, high, used)
        # Longer pieces are drawn from more often.
        offset = rng.uniform(0, sum(b - a for a, b in choices))
        for a, b in choices:
            value = min(a + offset, b)
            if offset <= b - a:
                break
            offset -= b - a
        value = float(value)
        style[name] = value if name in _SCALARS else (value, value)
    white = rng.uniform(0.88, 1.12, 3)
    style['white'] = tuple(float(part) for part in white / white.mean())
    grey = rng.uniform(140, 240)
    style['fog_colour'] = tuple(
        int(part) for part in (grey + rng.uniform(-12, 12, 3)).clip(0, 255)
    )
    words = set(re.findall(r'[a-z]+', prompt.lower()))
    if words & {'golden', 'sunrise'}:
        words.add('sunset')
    style['palette'] = sample_palette(words, rng)
    return style


def sample_palette(
    words: Container[str], rng: np.random.Generator
) -> dict[str, list[tuple[int, int, int]]]:
    """Draw the colours of one scene.

    Args:
        words: Of the prompt, in lower case.
        rng: Random generator.

    Returns:
        Kind of surface -> RGB colours to choose from.
    """
    ranges = dict(RANGES)
    for word, changed in WORD_RANGES.items():
        if word in words:
            ranges.update(changed)
    return {kind: _colours(rng, *spec) for kind, spec in ranges.items()}


def _colours(rng, count, hues, saturations, values):
    colours = []
    for _ in range(count):
        hue = rng.uniform(*hues) % 360 / 360
        rgb = colorsys.hsv_to_rgb(
            hue, rng.uniform(*saturations), rng.uniform(*values)
        )
        colours.append(tuple(int(255 * part) for part in rgb))
    return colours
