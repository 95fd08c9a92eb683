"""Colours for generated ToyCity scenes, drawn anew for every image."""

import colorsys

# Kind of surface -> how many colours, and ranges of hue (degrees; may pass
# 360), saturation and value (0 to 1). Wide on purpose: a student that meets a
# kind in many colours cannot hold on to one.
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


def draw_palette(words, rng):
    """Draw the colours of one scene.

    Args:
        words (Container[str]): Of the prompt, in lower case.
        rng (numpy.random.Generator): Source of the choices.

    Returns:
        dict[str, list[tuple[int, int, int]]]: Kind -> RGB choices.
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
