"""From the words of a prompt to the look of a ToyCity scene.

Where a target domain of ToyCity uses a range of a parameter, that range is
left out here: what a model learns from generated scenes is not the targets'
look under another name. Shared are the direction of the camera and the
exposure: the targets use whatever is reasonable there.
"""

import re

from clouds_mmseg.generate.toycity_palette import draw_palette

# Parameter -> range, of which the parts that no target uses are drawn from.
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
# (pattern, parameters), first match wins in each group. The renderer darkens
# the sky with the ground, so a low sun is a matter of colour alone.
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
# Parameters of which targets may use the same values.
SHARED = ('yaw', 'exposure')
# Around what a target fixes or draws, in widths of the range asked for.
_MARGIN = 0.02
# Where the targets leave less than this share of a range, it is widened.
_ENOUGH = 0.15
# These are shares: they end at 1.
_SHARES = (
    'ambient', 'texture', 'tint', 'shadow', 'clouds', 'vignette', 'horizon',
    'darkness', 'wetness', 'snow_cover',
)  # fmt: skip
# What Style takes as one number; the rest are ranges.
_SCALARS = {'ambient', 'texture', 'tint', 'shadow', 'clouds', 'vignette'}
_YAW = (-2.5, 2.5)


def ranges_for(prompt):
    """Find the ranges that a prompt's words ask for.

    Args:
        prompt (str): Any text; without a known word the weather is fair.

    Returns:
        dict[str, tuple[float, float]]: Parameter of a style -> range.
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


def outside(low, high, avoid):
    """Cut pieces out of a range.

    Args:
        low (float): Lower end.
        high (float): Upper end.
        avoid (Iterable[tuple[float, float]]): The pieces; each grows by a
            margin.

    Returns:
        list[tuple[float, float]]: What is left, ascending; slivers thinner
        than the margin are left out.
    """
    margin = _MARGIN * (high - low)
    left = []
    for start, end in sorted(avoid):
        if start - margin > low:
            left.append((low, min(start - margin, high)))
        low = max(low, end + margin)
    left.append((low, high))
    return [(a, b) for a, b in left if b - a > margin]


def pieces_for(name, low, high, avoid):
    """Find where a parameter may be drawn from.

    Args:
        name (str): The parameter.
        low (float): Lower end of the range asked for.
        high (float): Upper end.
        avoid (Sequence[tuple[float, float]]): Ranges that targets use.

    Returns:
        list[tuple[float, float]]: Pieces of the range, or of a wider one
        where the targets use nearly all of it.

    Raises:
        ValueError: There is nothing left near the range.
    """
    limit = 1.0 if name in _SHARES else float('inf')
    start, end = low, high
    for _ in range(5):
        pieces = outside(start, end, avoid)
        if sum(b - a for a, b in pieces) >= _ENOUGH * (high - low):
            return pieces
        half = (end - start) / 2
        start, end = max(start - half, 0.0), min(end + half, limit)
    raise ValueError(
        f'{name} of generated scenes should lie near {low}..{high}, but the '
        f'target styles use all of it: {sorted(avoid)}'
    )


def style_for(prompt, rng, avoid):
    """Draw the style of one scene.

    Args:
        prompt (str): Any text.
        rng (numpy.random.Generator): Source of the choices.
        avoid (Mapping[str, Sequence[tuple[float, float]]]): Parameter ->
            ranges that must not be used.

    Returns:
        dict: Keyword arguments of ToyCity's ``Style`` except its name; every
        range holds one value.

    Raises:
        ValueError: ``avoid`` leaves nothing near a parameter's range.
    """
    style = dict(yaw=_YAW)
    for name, (low, high) in ranges_for(prompt).items():
        used = () if name in SHARED else avoid.get(name, ())
        choices = pieces_for(name, low, high, used)
        # Longer pieces are drawn from more often.
        place = rng.uniform(0, sum(b - a for a, b in choices))
        for a, b in choices:
            value = min(a + place, b)
            if place <= b - a:
                break
            place -= b - a
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
    style['palette'] = draw_palette(words, rng)
    return style
