"""Poles, lamps, traffic lights and traffic signs."""

import math
from dataclasses import dataclass

from clouds_mmseg.toycity.camera import Face, Point, Vector
from clouds_mmseg.toycity.canvas import Canvas
from clouds_mmseg.toycity.solids import (
    Footprint,
    Item,
    bar,
    box,
    centred,
    disc,
    ground_shadow,
    rect,
)
from clouds_mmseg.toycity.styles import (
    LIGHT,
    POLE,
    SIGN,
    WARM_LAMP,
    WHITE,
    Look,
    dim,
)

RED = (214, 24, 32)
BLUE = (24, 84, 200)
YELLOW = (250, 190, 30)
INK = (26, 26, 26)


def triangle(v: float, size: float) -> list[Point]:
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


def draw_sign(canvas: Canvas, face: Face, kind: str) -> None:
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
    def box(self) -> Footprint:
        """Footprint (x0, x1, z0, z1) in metres."""
        return centred(self.x, self.z, self.width / 2, 0.15)

    @property
    def top(self) -> float:
        """Height of the upper edge in metres."""
        return 3.3

    def draw(self, canvas: Canvas, look: Look) -> None:
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


RED_AMBER_GREEN = ((255, 40, 30), (255, 180, 20), (40, 240, 110))
HALF = 0.13


@dataclass(frozen=True)
class Post(Item):
    """A pole with a street lamp, a traffic light or a sign.

    Attributes:
        kind: 'lamp', 'light', 'sign' or 'pole'.
        towards: -1 or 1, the side of the post on which the street lies.
        height: Height in metres.
        arm: Reach over the street in metres; 0 for none.
        phase: Which lamp of a traffic light is lit, 0 (red) to 2.
        sign: One of ``SIGNS``.
    """

    kind: str = 'pole'
    towards: int = 1
    height: float = 3.0
    arm: float = 0.0
    phase: int = 0
    sign: str = 'limit'

    @property
    def reach(self) -> float:
        """How far the arm or the load sticks out, in metres."""
        return self.arm + 0.6

    @property
    def box(self) -> Footprint:
        """Footprint (x0, x1, z0, z1) in metres."""
        return centred(self.x, self.z, 0.15, 0.15)

    @property
    def top(self) -> float:
        """Height of the load in metres."""
        return self.height + 0.9

    @property
    def lamp(self) -> Vector | None:
        """World point (3,) of a street lamp, None for other posts."""
        if self.kind != 'lamp':
            return None
        return (self.x + self.towards * self.arm, self.height, self.z)

    def draw(self, canvas: Canvas, look: Look) -> None:
        """Paint the pole and what is mounted on it."""
        paint, top = look.pick('pole'), self.height
        frame = canvas.camera.frame(self.x, self.z)
        ground_shadow(canvas, look, frame, 0.3, 0.2)
        face = canvas.camera.billboard(self.x, self.z)
        outline = [
            (-HALF, 0),
            (HALF, 0),
            (0.8 * HALF, top),
            (-0.8 * HALF, top),
        ]
        shaft = canvas.paint(face, outline, paint, POLE, shade=False)
        shade = rect(0.2 * HALF, 0, 0.8 * HALF, top)
        canvas.detail(shaft, [shade], dim(paint, 0.72))
        foot = rect(-1.3 * HALF, 0, 1.3 * HALF, 0.35)
        canvas.detail(shaft, [foot], dim(paint, 0.6))
        reach = self.towards * self.arm
        if self.arm:
            stroke = bar((0, top - 0.12), (reach, top), 0.19)
            canvas.paint(face, stroke, paint, POLE, shade=False)
        if self.kind == 'lamp':
            _lantern(canvas, face, reach, top, dim(paint, 0.8))
        elif self.kind == 'light':
            self._signal(canvas, look, face, 0.0, top - 0.2)
            if self.arm:
                self._signal(canvas, look, face, reach, top - 0.7)
        elif self.kind == 'sign':
            draw_sign(canvas, _moved(face, 0, top), self.sign)

    def _signal(self, canvas, look, face, u, v):
        face = _moved(face, u, v)
        outline = rect(-0.34, -0.85, 0.34, 0.95)
        colour = look.pick('housing')
        head = canvas.paint(face, outline, colour, LIGHT, rough=0, shade=False)
        for i, colour in enumerate(RED_AMBER_GREEN):
            place = [disc(0, 0.62 - i * 0.56, 0.23, points=10)]
            if i == self.phase:
                canvas.detail(head, place, colour, glow=colour)
            else:
                canvas.detail(head, place, dim(colour, 0.3))


def _moved(face, u, v):
    return face._replace(origin=face.point(u, v))


def _lantern(canvas, face, u, v, paint):
    face = _moved(face, u, v)
    outline = [(-0.5, 0), (0.5, 0), (0.35, 0.26), (-0.35, 0.26)]
    head = canvas.paint(face, outline, paint, POLE, shade=False)
    pane = [rect(-0.42, -0.02, 0.42, 0.1)]
    canvas.detail(head, pane, (230, 226, 206), glow=WARM_LAMP)
