"""Colours of one picture: choices from the palette of its style."""

import numpy as np

from clouds_mmseg.utils.cityscapes import CLASSES

(
    ROAD, SIDEWALK, BUILDING, WALL, FENCE, POLE, LIGHT, SIGN, VEGETATION,
    TERRAIN, SKY, PERSON, RIDER, CAR, TRUCK, BUS, TRAIN, MOTORCYCLE, BICYCLE,
) = range(len(CLASSES))  # fmt: skip

RED_LAMP = (255, 50, 30)
WHITE_LAMP = (255, 246, 214)
WARM_LAMP = (255, 206, 120)
BLACK = (22, 22, 24)


class Look:
    """Draws colours for the objects of one picture.

    It has a generator of its own, so that two styles give the same objects
    at the same places in different colours.

    Args:
        style (Style): Palette and how far colours stray from it.
        rng (numpy.random.Generator): Source of the choices.
    """

    def __init__(self, style, rng):
        self.style = style
        self.rng = rng

    def pick(self, kind):
        """One RGB colour of that kind."""
        choices = self.style.palette[kind]
        colour = np.array(choices[self.rng.integers(len(choices))], float)
        tint = self.style.tint
        colour *= 1 + tint * self.rng.uniform(-0.22, 0.22)
        colour += tint * self.rng.uniform(-14, 14, 3)
        return tuple(int(c) for c in np.clip(colour, 4, 252))

    def chance(self, share):
        """True in that share of the calls."""
        return bool(self.rng.random() < share)


def mix(colour, other, share):
    """RGB between two colours; a share of 0 gives the first."""
    return tuple(
        int(a + (b - a) * share) for a, b in zip(colour, other, strict=True)
    )


def dim(colour, factor):
    """RGB made darker (factor < 1) or lighter."""
    return tuple(min(int(c * factor), 255) for c in colour)


def ground_shadow(canvas, look, frame, xs, zs):
    """Darken the ground below an object; ``xs`` and ``zs`` are local."""
    face = frame.face((0, 0.01, 0), (1, 0, 0), (0, 0, 1))
    (x0, x1), (z0, z1) = xs, zs
    corner = 0.25 * min(x1 - x0, z1 - z0)
    outline = [
        [(x0 + corner, z0), (x1 - corner, z0), (x1, z0 + corner),
         (x1, z1 - corner), (x1 - corner, z1), (x0 + corner, z1),
         (x0, z1 - corner), (x0, z0 + corner)]
    ]  # fmt: skip
    canvas.detail(face, outline, (12, 12, 18), opacity=look.style.shadow)
