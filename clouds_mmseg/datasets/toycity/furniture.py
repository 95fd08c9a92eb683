"""Poles, and what hangs on them: lamps, traffic lights, signs."""

from dataclasses import dataclass

import numpy as np

from clouds_mmseg.datasets.toycity.look import (
    LIGHT,
    POLE,
    SIGN,
    WARM_LAMP,
    dim,
    ground_shadow,
)
from clouds_mmseg.datasets.toycity.shapes import (
    Frame,
    bar,
    box,
    disc,
    paint_face,
    rect,
)

WHITE = (246, 246, 246)
RED = (214, 24, 32)
BLUE = (24, 84, 200)
LAMPS = ((255, 40, 30), (255, 180, 20), (40, 240, 110))
SIGNS = ('stop', 'limit', 'yield', 'warning', 'oneway', 'parking', 'priority')


@dataclass(frozen=True)
class Post:
    """An upright pole and what it carries.

    Attributes:
        kind: 'lamp', 'light', 'sign' or 'pole'.
        x: Place across the street in metres.
        z: Place along the street in metres.
        towards: -1 or 1, the side of the post on which the street lies.
        height: Height in metres.
        arm: Reach over the street in metres; 0 for none.
        phase: Which lamp of a traffic light is lit, 0 (red) to 2.
        sign: One of :data:`SIGNS`.
    """

    kind: str
    x: float
    z: float
    towards: int
    height: float
    arm: float = 0.0
    phase: int = 0
    sign: str = 'limit'

    @property
    def box(self):
        """Footprint (x0, x1, z0, z1) in metres."""
        return (self.x - 0.15, self.x + 0.15, self.z - 0.15, self.z + 0.15)

    @property
    def lamp(self):
        """World point (3,) of a street lamp, None for other posts."""
        if self.kind != 'lamp':
            return None
        return (self.x + self.towards * self.arm, self.height, self.z)

    def draw(self, canvas, look):
        """Paint the post and its load."""
        paint = look.pick('pole')
        frame = Frame(self.x, self.z)
        ground_shadow(canvas, look, frame, (-0.3, 0.3), (-0.2, 0.2))
        face = canvas.billboard(self.x, self.z)
        half = 0.13
        outline = [(-half, 0), (half, 0), (half * 0.8, self.height),
                   (-half * 0.8, self.height)]  # fmt: skip
        shaft = paint_face(canvas, face, outline, paint, POLE, shade=False)
        canvas.detail(
            shaft, [rect(half * 0.2, 0, half * 0.8, self.height)],
            dim(paint, 0.72),
        )  # fmt: skip
        canvas.detail(
            shaft, [rect(-half * 1.3, 0, half * 1.3, 0.35)], dim(paint, 0.6)
        )
        if self.arm:
            reach = self.towards * self.arm
            paint_face(
                canvas, face,
                bar((0, self.height - 0.12), (reach, self.height), 0.19),
                paint, POLE, shade=False,
            )  # fmt: skip
        draw = {
            'lamp': self._lamp, 'light': self._light, 'sign': self._sign
        }.get(self.kind)  # fmt: skip
        if draw:
            draw(canvas, look, face, paint)

    def _lamp(self, canvas, look, face, paint):
        u = self.towards * self.arm
        v = self.height
        head = paint_face(
            canvas, face,
            [(u - 0.5, v), (u + 0.5, v), (u + 0.35, v + 0.26),
             (u - 0.35, v + 0.26)],
            dim(paint, 0.8), POLE, shade=False,
        )  # fmt: skip
        canvas.detail(
            head, [rect(u - 0.42, v - 0.02, u + 0.42, v + 0.1)],
            (230, 226, 206), glow=WARM_LAMP,
        )  # fmt: skip

    def _light(self, canvas, look, face, paint):
        self._head(canvas, look, face, 0.0, self.height - 0.2)
        if self.arm:
            self._head(
                canvas, look, face, self.towards * self.arm, self.height - 0.7
            )

    def _head(self, canvas, look, face, u, v):
        housing = look.pick('housing')
        outline = rect(u - 0.34, v - 0.85, u + 0.34, v + 0.95)
        head = paint_face(
            canvas, face, outline, housing, LIGHT, rough=0, shade=False
        )
        for i, colour in enumerate(LAMPS):
            place = [disc(u, v + 0.62 - i * 0.56, 0.23)]
            if i == self.phase:
                canvas.detail(head, place, colour, glow=colour)
            else:
                canvas.detail(head, place, dim(colour, 0.3))

    def _sign(self, canvas, look, face, paint):
        v = self.height
        options = {'rough': 0.0, 'shade': False}

        def plate(outline, colour):
            return paint_face(canvas, face, outline, colour, SIGN, **options)

        if self.sign == 'limit':
            made = plate(disc(0, v, 0.5, points=16), RED)
            canvas.detail(made, [disc(0, v, 0.36, points=16)], WHITE)
            for u in (-0.16, 0.05):
                canvas.detail(made, [rect(u, v - 0.16, u + 0.11, v + 0.16)],
                              (30, 30, 30))  # fmt: skip
        elif self.sign == 'stop':
            octagon = disc(0, v, 0.52, points=8, turn=np.pi / 8)
            made = plate(octagon, RED)
            canvas.detail(made, [rect(-0.34, v - 0.09, 0.34, v + 0.09)], WHITE)
        elif self.sign in ('yield', 'warning'):
            sign = 1 if self.sign == 'warning' else -1
            made = plate(
                [(-0.6, v - 0.5 * sign), (0.6, v - 0.5 * sign),
                 (0, v + 0.55 * sign)], RED,
            )  # fmt: skip
            canvas.detail(
                made,
                [[(-0.34, v - 0.35 * sign), (0.34, v - 0.35 * sign),
                  (0, v + 0.25 * sign)]],
                WHITE,
            )  # fmt: skip
            if sign > 0:
                canvas.detail(made, [rect(-0.05, v - 0.3, 0.05, v)], (20,) * 3)
        elif self.sign == 'oneway':
            made = plate(disc(0, v, 0.5, points=16), BLUE)
            canvas.detail(made, [rect(-0.08, v - 0.3, 0.08, v + 0.1)], WHITE)
            canvas.detail(
                made, [[(-0.24, v + 0.06), (0.24, v + 0.06), (0, v + 0.36)]],
                WHITE,
            )  # fmt: skip
        elif self.sign == 'parking':
            made = plate(rect(-0.45, v - 0.5, 0.45, v + 0.5), BLUE)
            canvas.detail(made, [rect(-0.18, v - 0.35, -0.04, v + 0.35)],
                          WHITE)  # fmt: skip
            canvas.detail(made, [rect(-0.04, v - 0.02, 0.2, v + 0.35)], WHITE)
            canvas.detail(made, [rect(-0.02, v + 0.1, 0.08, v + 0.23)], BLUE)
        else:
            made = plate(disc(0, v, 0.58, points=4), WHITE)
            canvas.detail(made, [disc(0, v, 0.42, points=4)], (250, 190, 30))


@dataclass(frozen=True)
class Board:
    """A wide direction board on two posts.

    Attributes:
        x: Place across the street in metres.
        z: Place along the street in metres.
        width: Width in metres.
    """

    x: float
    z: float
    width: float = 2.2

    @property
    def box(self):
        """Footprint (x0, x1, z0, z1) in metres."""
        half = self.width / 2
        return (self.x - half, self.x + half, self.z - 0.15, self.z + 0.15)

    def draw(self, canvas, look):
        """Paint the posts, then the board."""
        frame = Frame(self.x, self.z)
        half = self.width / 2
        for x in (-half * 0.7, half * 0.7):
            box(
                canvas, frame, (x - 0.1, x + 0.1), (0, 2.2), (-0.05, 0.05),
                look.pick('pole'), POLE,
            )  # fmt: skip
        faces = box(
            canvas, frame, (-half, half), (2.0, 3.3), (-0.06, 0.06),
            (20, 96, 190), SIGN, rough=0, shade=False,
        )  # fmt: skip
        back = faces.get('back')
        width = self.width
        canvas.detail(
            back,
            [rect(0, 0, width, 0.08), rect(0, 1.22, width, 1.3),
             rect(0, 0, 0.08, 1.3), rect(width - 0.08, 0, width, 1.3),
             rect(0.3, 0.85, width * 0.75, 1.05),
             rect(0.3, 0.4, width * 0.6, 0.6)],
            WHITE,
        )  # fmt: skip
