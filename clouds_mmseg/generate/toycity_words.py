"""From the words of a prompt to the look of a ToyCity scene.

None of the numbers below is inside a range that a target domain of ToyCity
uses (a test compares them): what a model learns from generated scenes is not
the targets' look under another name. Only the direction of the camera is
shared, which has no other reasonable range.
"""

import re

from clouds_mmseg.generate.toycity_palette import draw_palette

# Parameter -> intervals, one of which is drawn from uniformly.
_BASE = {
    'camera_height': [(1.45, 1.49), (1.52, 1.9)],
    'focal': [(0.82, 0.91), (0.93, 0.97)],
    'horizon': [(0.37, 0.395), (0.465, 0.49)],
    'ambient': [(0.5, 0.61), (0.64, 0.7), (0.75, 0.89)],
    'texture': [(0.15, 0.5), (0.6, 0.9)],
    'tint': [(0.55, 1.0)],
    'shadow': [(0.18, 0.32), (0.38, 0.44), (0.47, 0.55)],
    'clouds': [(0.05, 0.2), (0.3, 0.55)],
    'saturation': [(0.32, 0.48), (0.92, 0.98), (1.02, 1.25)],
    'contrast': [(0.7, 0.84), (1.11, 1.3)],
    'exposure': [(0.55, 0.64), (1.11, 1.3)],
    'blur': [(0.1, 0.9)],
    'noise': [(0.3, 1.8)],
    'vignette': [(0.05, 0.22), (0.28, 0.4)],
}
_SOFT_LIGHT = {
    'ambient': [(0.75, 0.89)],
    'shadow': [(0.17, 0.24)],
    'clouds': [(0.7, 0.95)],
}
# (pattern, parameters), first match wins in each group.
_TIME = (
    (
        r'\b(night|after dark|midnight|nocturnal)\b',
        {
            'darkness': [(0.62, 0.84)],
            'exposure': [(1.11, 1.35)],
            'noise': [(0.5, 1.8), (12.5, 16.0)],
            'contrast': [(1.11, 1.2)],
        },
    ),
    (
        r'\b(dusk|twilight|dawn|evening|blue hour)\b',
        {'darkness': [(0.3, 0.58)], 'exposure': [(1.11, 1.3)]},
    ),
    (
        r'\b(sunset|sunrise|golden hour|early morning)\b',
        {'darkness': [(0.08, 0.28)], 'exposure': [(1.11, 1.3)]},
    ),
)
_WEATHER = (
    (r'\b(dense|thick|heavy) (fog|mist)\b',
     {'visibility': [(24.0, 43.0)], **_SOFT_LIGHT}),
    (r'\b(fog|foggy|mist|misty)\b',
     {'visibility': [(36.0, 44.0), (92.0, 98.0)], **_SOFT_LIGHT}),
    (r'\b(haze|hazy|smog|dust|sandstorm)\b',
     {'visibility': [(92.0, 98.0), (210.0, 400.0)]}),
    (r'\b(drizzle|light rain|light shower)\b',
     {'rain': [(0.6, 1.4)], 'wetness': [(0.12, 0.28)], **_SOFT_LIGHT}),
    (r'\b(puddles?|after (a )?rain)\b',
     {'wetness': [(0.28, 0.43), (0.72, 0.8)]}),
    (r'\b(rain|rainy|downpour|storm|thunderstorm)\b',
     {'rain': [(1.4, 2.8)], 'wetness': [(0.28, 0.43), (0.72, 0.8)],
      'visibility': [(92.0, 98.0), (210.0, 300.0)], **_SOFT_LIGHT}),
    (r'\b(blizzard|heavy snow|snowstorm)\b',
     {'snowfall': [(1.4, 2.3)], 'snow_cover': [(0.4, 0.67)],
      'visibility': [(92.0, 98.0), (190.0, 260.0)], **_SOFT_LIGHT}),
    (r'\b(melting snow|slush)\b',
     {'snow_cover': [(0.2, 0.4)], 'wetness': [(0.12, 0.3)]}),
    (r'\b(snow|snowy|snowfall|snow-covered)\b',
     {'snowfall': [(0.5, 1.5)], 'snow_cover': [(0.3, 0.6)], **_SOFT_LIGHT}),
    (r'\b(overcast|grey|gray|cloudy)\b', _SOFT_LIGHT),
    (r'\b(bright sun|sunny|hard shadows|clear)\b',
     {'ambient': [(0.5, 0.61)], 'shadow': [(0.47, 0.6)],
      'clouds': [(0.02, 0.2)]}),
)  # fmt: skip
# What Style takes as one number; the rest are ranges.
_SCALARS = {'ambient', 'texture', 'tint', 'shadow', 'clouds', 'vignette'}
_YAW = (-2.5, 2.5)


def intervals_for(prompt):
    """Find the intervals that a prompt's words ask for.

    Args:
        prompt (str): Any text; without a known word the weather is fair.

    Returns:
        dict[str, list[tuple[float, float]]]: Parameter of a style ->
        intervals to draw from.
    """
    text = prompt.lower()
    intervals = dict(_BASE)
    # Time comes second: at night the exposure is that of the night.
    for group in (_WEATHER, _TIME):
        for pattern, changed in group:
            if re.search(pattern, text):
                intervals.update(changed)
                break
    return intervals


def style_for(prompt, rng):
    """Draw the style of one scene.

    Args:
        prompt (str): Any text.
        rng (numpy.random.Generator): Source of the choices.

    Returns:
        dict: Keyword arguments of ToyCity's ``Style`` except its name; every
        range holds one value.
    """
    style = dict(yaw=_YAW)
    for name, choices in intervals_for(prompt).items():
        low, high = choices[rng.integers(len(choices))]
        value = float(rng.uniform(low, high))
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
