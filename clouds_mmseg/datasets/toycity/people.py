"""Pedestrians, and riders on their bicycles and motorcycles."""

from dataclasses import dataclass

import numpy as np

from clouds_mmseg.datasets.toycity.look import (
    BICYCLE,
    BLACK,
    MOTORCYCLE,
    PERSON,
    RED_LAMP,
    RIDER,
    WHITE_LAMP,
    dim,
    ground_shadow,
)
from clouds_mmseg.datasets.toycity.shapes import (
    Frame,
    bar,
    disc,
    paint_face,
    rect,
)


@dataclass(frozen=True)
class Pedestrian:
    """Somebody standing or walking.

    Attributes:
        x: Place across the street in metres.
        z: Place along the street in metres.
        height: Height in metres.
        stride: Distance between the feet in metres.
        facing: -1 to the left, 1 to the right, 0 along the street.
        bag: Whether something is carried.
    """

    x: float
    z: float
    height: float = 1.75
    stride: float = 0.5
    facing: int = 0
    bag: bool = False

    @property
    def box(self):
        """Footprint (x0, x1, z0, z1) in metres."""
        return (self.x - 0.3, self.x + 0.3, self.z - 0.25, self.z + 0.25)

    def draw(self, canvas, look):
        """Paint the person."""
        frame = Frame(self.x, self.z)
        ground_shadow(canvas, look, frame, (-0.45, 0.45), (-0.25, 0.25))
        face = canvas.billboard(self.x, self.z)
        s = self.height / 1.75
        shirt, legs = look.pick('cloth'), look.pick('trousers')
        skin, hair = look.pick('skin'), look.pick('hair')

        def part(outline, colour):
            paint_face(
                canvas, face, np.asarray(outline, float) * s, colour, PERSON,
                rough=0.15, shade=False,
            )  # fmt: skip

        foot = self.stride / 2
        lean = 0.03 * self.facing
        for sign in (-1, 1):
            x = sign * foot * (1 if self.facing else 0.5)
            hip = 0.1 * sign
            tone = legs if sign > 0 else dim(legs, 0.75)
            part([(x - 0.1, 0), (x + 0.1, 0), (hip + 0.12, 0.88),
                  (hip - 0.12, 0.88)], tone)  # fmt: skip
            toe = 0.1 * self.facing
            part([(x - 0.11, 0), (x + 0.11 + toe, 0), (x + 0.1, 0.08),
                  (x - 0.11, 0.08)], BLACK)  # fmt: skip
        wide = 0.2 if self.facing else 0.25
        part(bar((lean - wide, 1.36), (lean - wide - foot * 0.5, 0.8), 0.13),
             dim(shirt, 0.7))  # fmt: skip
        part([(-wide, 0.82), (wide, 0.82), (wide + lean + 0.02, 1.42),
              (lean + 0.1, 1.5), (lean - 0.1, 1.5),
              (-wide + lean - 0.02, 1.42)], shirt)  # fmt: skip
        part(bar((lean + wide, 1.36), (lean + wide + foot * 0.5, 0.8), 0.13),
             dim(shirt, 0.85))  # fmt: skip
        if self.bag:
            part(rect(wide, 0.5, wide + 0.26, 0.82), dim(legs, 1.5))
        part(disc(lean, 1.63, 0.14, stretch=1.1), skin)
        part([(lean - 0.15, 1.62), (lean + 0.15, 1.66), (lean + 0.1, 1.8),
              (lean - 0.1, 1.8)], hair)  # fmt: skip


@dataclass(frozen=True)
class TwoWheeler:
    """A bicycle or motorcycle, ridden or parked.

    Attributes:
        kind: 'bicycle' or 'motorcycle'.
        x: Place across the street in metres.
        z: Place along the street in metres.
        heading: Direction of travel, radians clockwise from world z.
        ridden: Whether somebody rides it.
    """

    kind: str
    x: float
    z: float
    heading: float = 1.2
    ridden: bool = True

    @property
    def box(self):
        """Footprint (x0, x1, z0, z1) in metres."""
        across = abs(np.sin(self.heading)) * 0.8 + 0.25
        along = abs(np.cos(self.heading)) * 0.8 + 0.25
        return (
            self.x - across, self.x + across, self.z - along, self.z + along
        )  # fmt: skip

    def draw(self, canvas, look):
        """Paint the machine, then whoever rides it."""
        frame = Frame(self.x, self.z, self.heading)
        ground_shadow(canvas, look, frame, (-0.3, 0.3), (-0.95, 0.95))
        away = abs(np.sin(self.heading - np.arctan2(self.x, self.z)))
        side = frame.face((0, 0, 0), (0, 0, 1), (0, 1, 0))
        if away < 0.4:
            _from_behind(canvas, look, canvas.billboard(self.x, self.z), self)
        elif self.kind == 'bicycle':
            _bicycle(canvas, look, side)
            if self.ridden:
                _cyclist(canvas, look, side)
        else:
            _motorcycle(canvas, look, side)
            if self.ridden:
                _biker(canvas, look, side)


def _painter(canvas, face, class_id):
    def part(outline, colour, **options):
        return paint_face(
            canvas, face, outline, colour, class_id, rough=0.1, shade=False,
            **options,
        )  # fmt: skip

    return part


def _bicycle(canvas, look, side):
    part = _painter(canvas, side, BICYCLE)
    paint = look.pick('bicycle')
    for u in (-0.54, 0.54):
        # Between the spokes the street shows through.
        wheel = part(disc(u, 0.36, 0.37, points=16), (70, 70, 74), opacity=0.3)
        ring = disc(u, 0.36, 0.37, points=16)
        inner = disc(u, 0.36, 0.28, points=16)
        quads = np.stack(
            [ring, np.roll(ring, -1, 0), np.roll(inner, -1, 0), inner], 1
        )
        canvas.detail(wheel, quads, BLACK)
        canvas.detail(wheel, [disc(u, 0.36, 0.07, points=8)], BLACK)
    seat, crank, head = (-0.2, 0.9), (-0.05, 0.36), (0.4, 0.92)
    for a, b in (
        ((-0.54, 0.36), crank), ((-0.54, 0.36), seat), (seat, crank),
        (crank, head), ((-0.17, 0.8), (0.38, 0.82)), ((0.54, 0.36), head),
        (head, (0.36, 1.06)),
    ):  # fmt: skip
        part(bar(a, b, 0.09), paint)
    part(rect(-0.36, 0.9, -0.06, 1.0), BLACK)
    part(rect(0.24, 1.02, 0.5, 1.1), BLACK)


def _cyclist(canvas, look, side):
    part = _painter(canvas, side, RIDER)
    shirt, legs = look.pick('cloth'), look.pick('trousers')
    part(bar((-0.2, 0.98), (0.16, 0.72), 0.2), dim(legs, 0.8))
    part(bar((0.16, 0.74), (0.02, 0.28), 0.15), dim(legs, 0.8))
    part(bar((-0.22, 1.0), (0.2, 0.84), 0.22), legs)
    part(bar((0.2, 0.86), (-0.08, 0.42), 0.16), legs)
    part([(-0.36, 0.95), (-0.06, 0.95), (0.26, 1.42), (0.14, 1.56),
          (-0.1, 1.5)], shirt)  # fmt: skip
    part(bar((0.12, 1.44), (0.4, 1.08), 0.13), dim(shirt, 0.8))
    part(disc(0.24, 1.68, 0.15), look.pick('skin'))
    part([(0.06, 1.7), (0.44, 1.7), (0.36, 1.86), (0.14, 1.86)],
         look.pick('cloth'))  # fmt: skip


def _motorcycle(canvas, look, side):
    part = _painter(canvas, side, MOTORCYCLE)
    paint = look.pick('motorcycle')
    part([(-0.7, 0.3), (0.7, 0.3), (0.62, 0.7), (0.2, 0.8), (-0.6, 0.8)],
         (70, 70, 74))  # fmt: skip
    for u in (-0.68, 0.72):
        wheel = part(disc(u, 0.33, 0.35, points=14), (24, 24, 26))
        canvas.detail(wheel, [disc(u, 0.33, 0.17)], (150, 150, 154))
    part(bar((0.72, 0.33), (0.45, 0.98), 0.12), (160, 162, 166))
    part([(-0.05, 0.72), (0.5, 0.74), (0.44, 1.0), (0.05, 1.02)], paint)
    part([(-0.98, 0.84), (-0.8, 0.7), (0.0, 0.7), (0.02, 0.86),
          (-0.5, 0.92)], BLACK)  # fmt: skip
    part([(-1.0, 0.62), (-0.4, 0.6), (-0.4, 0.72), (-0.95, 0.8)], paint)
    part(bar((-0.9, 0.28), (0.0, 0.34), 0.13), (186, 186, 190))
    lamp = part(disc(0.6, 0.96, 0.13), (220, 220, 214))
    canvas.detail(lamp, [disc(0.64, 0.96, 0.09)], WHITE_LAMP, glow=WHITE_LAMP)
    part(bar((0.42, 1.0), (0.28, 1.14), 0.09), BLACK)


def _biker(canvas, look, side):
    part = _painter(canvas, side, RIDER)
    jacket, legs = look.pick('cloth'), look.pick('trousers')
    part(bar((-0.28, 0.95), (0.16, 0.8), 0.25), legs)
    part(bar((0.14, 0.86), (0.0, 0.36), 0.18), legs)
    part([(-0.48, 0.86), (-0.12, 0.86), (0.16, 1.4), (0.04, 1.54),
          (-0.22, 1.48)], jacket)  # fmt: skip
    part(bar((0.02, 1.42), (0.34, 1.12), 0.16), dim(jacket, 0.8))
    helmet = part(disc(0.12, 1.68, 0.19), look.pick('car'))
    canvas.detail(helmet, [rect(0.14, 1.6, 0.31, 1.72)], BLACK)


def _from_behind(canvas, look, face, machine):
    class_id = BICYCLE if machine.kind == 'bicycle' else MOTORCYCLE
    part = _painter(canvas, face, class_id)
    towards = np.cos(machine.heading) < 0
    wide = 0.07 if class_id == BICYCLE else 0.12
    part(rect(-wide, 0, wide, 0.7), (24, 24, 26))
    if class_id == BICYCLE:
        part(rect(-0.05, 0.6, 0.05, 0.95), look.pick('bicycle'))
        part(rect(-0.32, 0.98, 0.32, 1.06), BLACK)
        part(rect(-0.16, 0.86, 0.16, 0.96), BLACK)
    else:
        paint = look.pick('motorcycle')
        part(rect(-0.26, 0.3, 0.26, 0.62), (90, 90, 94))
        part([(-0.22, 0.55), (0.22, 0.55), (0.28, 0.95), (-0.28, 0.95)], paint)
        part(rect(-0.42, 1.02, 0.42, 1.1), BLACK)
    if machine.ridden:
        rider = _painter(canvas, face, RIDER)
        shirt, legs = look.pick('cloth'), look.pick('trousers')
        for sign in (-1, 1):
            rider(bar((0.12 * sign, 0.95), (0.27 * sign, 0.66), 0.2), legs)
            rider(bar((0.26 * sign, 0.7), (0.2 * sign, 0.3), 0.16), legs)
            rider(bar((0.24 * sign, 1.42), (0.36 * sign, 1.06), 0.14),
                  dim(shirt, 0.8))  # fmt: skip
        rider([(-0.22, 0.88), (0.22, 0.88), (0.28, 1.44), (0.1, 1.54),
               (-0.1, 1.54), (-0.28, 1.44)], shirt)  # fmt: skip
        helmet = look.pick('cloth' if class_id == BICYCLE else 'car')
        rider(disc(0, 1.68, 0.17), helmet)
        if towards:
            rider(disc(0, 1.65, 0.11), look.pick('skin'))
    lamp = WHITE_LAMP if towards else RED_LAMP
    made = part(disc(0, 0.78, 0.1), lamp)
    canvas.detail(made, [disc(0, 0.78, 0.1)], lamp, glow=lamp)
