"""Faces of traffic signs, and direction boards."""

import math
from dataclasses import dataclass

from clouds_mmseg.datasets.toycity.item import Item, centred
from clouds_mmseg.datasets.toycity.look import POLE, SIGN, WHITE
from clouds_mmseg.datasets.toycity.shapes import disc, rect
from clouds_mmseg.datasets.toycity.solids import box

RED = (214, 24, 32)
BLUE = (24, 84, 200)
YELLOW = (250, 190, 30)
INK = (26, 26, 26)


def triangle(v, size):
    """A triangle around (0, v), its tip up for a positive size."""
    return [(-size, v - 0.8 * size), (size, v - 0.8 * size), (0, v + size)]


# By kind: the plate's outline and colour, and what is on it; all around the
# origin, in metres. Triangles with a negative size stand on their tip.
PLATES = {
    'limit': (
        disc(0, 0, 0.5, points=16),
        RED,
        [
            ([disc(0, 0, 0.36, points=16)], WHITE),
            (
                [
                    rect(-0.17, -0.16, -0.05, 0.16),
                    rect(0.05, -0.16, 0.17, 0.16),
                ],
                INK,
            ),
        ],
    ),
    'stop': (
        disc(0, 0, 0.52, points=8, turn=math.pi / 8),
        RED,
        [([rect(-0.34, -0.1, 0.34, 0.1)], WHITE)],
    ),
    'yield': (triangle(0, -0.6), RED, [([triangle(0, -0.34)], WHITE)]),
    'warning': (
        triangle(0, 0.6),
        RED,
        [
            ([triangle(0, 0.34)], WHITE),
            ([rect(-0.05, -0.22, 0.05, 0.1)], INK),
        ],
    ),
    'oneway': (
        disc(0, 0, 0.5, points=16),
        BLUE,
        [
            ([rect(-0.08, -0.3, 0.08, 0.06)], WHITE),
            ([[(-0.24, 0.06), (0.24, 0.06), (0, 0.36)]], WHITE),
        ],
    ),
    'parking': (
        rect(-0.45, -0.5, 0.45, 0.5),
        BLUE,
        [
            (
                [
                    rect(-0.18, -0.35, -0.04, 0.35),
                    rect(-0.04, -0.02, 0.2, 0.35),
                ],
                WHITE,
            ),
            ([rect(-0.02, 0.1, 0.08, 0.23)], BLUE),
        ],
    ),
    'priority': (
        disc(0, 0, 0.58, points=4),
        WHITE,
        [([disc(0, 0, 0.42, points=4)], YELLOW)],
    ),
}
SIGNS = tuple(PLATES)


def draw_sign(canvas, face, kind):
    """Paint a sign around the origin of a face, in metres."""
    outline, colour, parts = PLATES[kind]
    plate = canvas.paint(face, outline, colour, SIGN, rough=0, shade=False)
    for outlines, ink in parts:
        canvas.detail(plate, outlines, ink)


@dataclass(frozen=True)
class Board(Item):
    """A wide direction board on two posts.

    Attributes:
        width: Width in metres.
    """

    width: float = 2.2

    @property
    def box(self):
        """Footprint (x0, x1, z0, z1) in metres."""
        return centred(self.x, self.z, self.width / 2, 0.15)

    @property
    def top(self):
        """Height of the upper edge in metres."""
        return 3.3

    def draw(self, canvas, look):
        """Paint the posts, then the board."""
        frame = canvas.camera.frame(self.x, self.z)
        half, paint = self.width / 2, look.pick('pole')
        for x in (-half * 0.7, half * 0.7):
            xs, zs = (x - 0.1, x + 0.1), (-0.05, 0.05)
            box(canvas, frame, xs, (0, 2.2), zs, paint, POLE)
        faces = box(
            canvas,
            frame,
            (-half, half),
            (2.0, 3.3),
            (-0.06, 0.06),
            (20, 96, 190),
            SIGN,
            rough=0,
            shade=False,
        )
        width = self.width
        edge = [
            rect(0, 0, width, 0.08),
            rect(0, 1.22, width, 1.3),
            rect(0, 0.08, 0.08, 1.22),
            rect(width - 0.08, 0.08, width, 1.22),
        ]
        names = [
            rect(0.3, 0.82, width * 0.75, 1.05),
            rect(0.3, 0.35, width * 0.6, 0.58),
        ]
        canvas.detail(faces.get('back'), edge + names, WHITE)
