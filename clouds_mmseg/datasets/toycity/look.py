"""Colours of one picture: choices from the palette of its style."""

from clouds_mmseg.utils.cityscapes import CLASSES

(
    ROAD,
    SIDEWALK,
    BUILDING,
    WALL,
    FENCE,
    POLE,
    LIGHT,
    SIGN,
    VEGETATION,
    TERRAIN,
    SKY,
    PERSON,
    RIDER,
    CAR,
    TRUCK,
    BUS,
    TRAIN,
    MOTORCYCLE,
    BICYCLE,
) = range(len(CLASSES))

RED_LAMP = (255, 50, 30)
WHITE_LAMP = (255, 246, 214)
WARM_LAMP = (255, 206, 120)
AMBER = (255, 160, 30)
BLACK = (22, 22, 24)
WHITE = (246, 246, 246)


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
        chance, bright, *shift = self.rng.random(5).tolist()
        colour = choices[int(chance * len(choices))]
        tint = self.style.tint
        factor = 1 + tint * 0.44 * (bright - 0.5)
        return tuple(
            int(min(max(c * factor + 28 * tint * (s - 0.5), 4), 252))
            for c, s in zip(colour, shift, strict=True)
        )


def mix(colour, other, share):
    """RGB between two colours; a share of 0 gives the first."""
    return tuple(
        int(a + (b - a) * share) for a, b in zip(colour, other, strict=True)
    )


def dim(colour, factor):
    """RGB made darker (factor < 1) or lighter."""
    return tuple(min(int(c * factor), 255) for c in colour)


def ground_shadow(canvas, look, frame, half_x, half_z):
    """Darken the ground below an object, half sizes in metres."""
    face = frame.face((0, 0.01, 0), (1, 0, 0), (0, 0, 1))
    x, z = half_x, half_z
    cut = 0.5 * min(x, z)
    outline = [
        (cut - x, -z),
        (x - cut, -z),
        (x, cut - z),
        (x, z - cut),
        (x - cut, z),
        (cut - x, z),
        (-x, z - cut),
        (-x, cut - z),
    ]
    canvas.detail(face, [outline], (12, 12, 18), opacity=look.style.shadow)
