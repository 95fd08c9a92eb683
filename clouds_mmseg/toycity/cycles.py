"""Bicycles and motorcycles, and their riders."""

import math
from dataclasses import dataclass

from clouds_mmseg.toycity.canvas import Canvas
from clouds_mmseg.toycity.solids import (
    Footprint,
    Item,
    bar,
    centred,
    disc,
    ground_shadow,
    rect,
    ring,
)
from clouds_mmseg.toycity.styles import (
    BICYCLE,
    BLACK,
    MOTORCYCLE,
    RED_LAMP,
    RIDER,
    WHITE_LAMP,
    Look,
    dim,
)

STEEL = (186, 186, 190)


@dataclass(frozen=True)
class TwoWheeler(Item):
    """A bicycle or motorcycle, ridden or parked.

    Attributes:
        kind: 'bicycle' or 'motorcycle'.
        heading: Direction of travel, radians clockwise from world z.
        ridden: Whether somebody rides it.
    """

    kind: str = 'bicycle'
    heading: float = 1.2
    ridden: bool = True

    @property
    def box(self) -> Footprint:
        """Footprint (x0, x1, z0, z1) in metres."""
        across = abs(math.sin(self.heading)) * 0.8 + 0.25
        along = abs(math.cos(self.heading)) * 0.8 + 0.25
        return centred(self.x, self.z, across, along)

    @property
    def top(self) -> float:
        """Height of machine and rider in metres."""
        return 2.0 if self.ridden else 1.3

    def draw(self, canvas: Canvas, look: Look) -> None:
        """Paint the vehicle, then its rider."""
        camera = canvas.camera
        frame = camera.frame(self.x, self.z, self.heading)
        ground_shadow(canvas, look, frame, 0.3, 0.95)
        turned = math.sin(self.heading - math.atan2(self.x - camera.x, self.z))
        if abs(turned) < 0.4:
            # A flat outline seen edge-on would be a line.
            face = camera.billboard(self.x, self.z)
            self._end_on(canvas, look, face)
            return
        side = frame.face((0, 0, 0), (0, 0, 1), (0, 1, 0))
        if self.kind == 'bicycle':
            _bicycle(canvas, look, side)
        else:
            _motorcycle(canvas, look, side)
        if self.ridden:
            draw = _cyclist if self.kind == 'bicycle' else _biker
            draw(_brush(canvas, side, RIDER), canvas, look)

    def _end_on(self, canvas, look, face):
        lamp = WHITE_LAMP if math.cos(self.heading) < 0 else RED_LAMP
        if self.kind == 'bicycle':
            part = _brush(canvas, face, BICYCLE)
            part(rect(-0.08, 0, 0.08, 0.7), (24, 24, 26))
            part(rect(-0.06, 0.6, 0.06, 0.95), look.pick('bicycle'))
            part(rect(-0.34, 0.98, 0.34, 1.07), BLACK)
            part(rect(-0.16, 0.86, 0.16, 0.96), BLACK)
        else:
            part = _brush(canvas, face, MOTORCYCLE)
            part(rect(-0.14, 0, 0.14, 0.7), (24, 24, 26))
            part(rect(-0.3, 0.3, 0.3, 0.62), (90, 90, 94))
            part(
                [(-0.24, 0.55), (0.24, 0.55), (0.3, 0.95), (-0.3, 0.95)],
                look.pick('motorcycle'),
            )
            part(rect(-0.46, 1.0, 0.46, 1.1), BLACK)
        if self.ridden:
            self._rider_end_on(_brush(canvas, face, RIDER), look)
        outline = disc(0, 0.76, 0.1, points=8)
        canvas.detail(part(outline, lamp), [outline], lamp, glow=lamp)

    def _rider_end_on(self, part, look):
        shirt, legs = look.pick('cloth'), look.pick('trousers')
        for sign in (-1, 1):
            part(bar((0.12 * sign, 0.95), (0.27 * sign, 0.66), 0.2), legs)
            part(bar((0.26 * sign, 0.7), (0.2 * sign, 0.3), 0.16), legs)
            arm = bar((0.24 * sign, 1.42), (0.36 * sign, 1.06), 0.14)
            part(arm, dim(shirt, 0.8))
        torso = [
            (-0.22, 0.88),
            (0.22, 0.88),
            (0.28, 1.44),
            (0.1, 1.54),
            (-0.1, 1.54),
            (-0.28, 1.44),
        ]
        part(torso, shirt)
        helmet = look.pick('cloth' if self.kind == 'bicycle' else 'car')
        part(disc(0, 1.68, 0.17, points=10), helmet)
        if math.cos(self.heading) < 0:
            part(disc(0, 1.63, 0.11, points=8), look.pick('skin'))


def _brush(canvas, face, class_id):
    def part(outline, colour, opacity=1.0):
        return canvas.paint(
            face,
            outline,
            colour,
            class_id,
            rough=0.1,
            shade=False,
            opacity=opacity,
        )

    return part


def _bicycle(canvas, look, side):
    part = _brush(canvas, side, BICYCLE)
    paint = look.pick('bicycle')
    rear, front, crank = (-0.54, 0.36), (0.54, 0.36), (-0.05, 0.36)
    seat, head = (-0.2, 0.9), (0.4, 0.92)
    for u, v in (rear, front):
        # Between the spokes the street shows through.
        wheel = part(disc(u, v, 0.37, points=16), (70, 70, 74), opacity=0.3)
        canvas.detail(wheel, ring(u, v, 0.37, 0.27), BLACK)
        canvas.detail(wheel, [disc(u, v, 0.07, points=6)], BLACK)
    for a, b in (
        (rear, crank),
        (rear, seat),
        (seat, crank),
        (crank, head),
        ((-0.17, 0.8), (0.38, 0.82)),
        (front, head),
        (head, (0.36, 1.06)),
    ):
        part(bar(a, b, 0.09), paint)
    part(rect(-0.36, 0.9, -0.06, 1.0), BLACK)
    part(rect(0.24, 1.02, 0.5, 1.1), BLACK)


def _cyclist(part, canvas, look):
    shirt, legs = look.pick('cloth'), look.pick('trousers')
    part(bar((-0.2, 0.98), (0.16, 0.72), 0.2), dim(legs, 0.8))
    part(bar((0.16, 0.74), (0.02, 0.28), 0.15), dim(legs, 0.8))
    part(bar((-0.22, 1.0), (0.2, 0.84), 0.22), legs)
    part(bar((0.2, 0.86), (-0.08, 0.42), 0.16), legs)
    part([(-0.36, 0.95), (-0.06, 0.95), (0.26, 1.42), (0.14, 1.56),
          (-0.1, 1.5)], shirt)  # fmt: skip
    part(bar((0.12, 1.44), (0.4, 1.08), 0.13), dim(shirt, 0.8))
    part(disc(0.24, 1.67, 0.15, points=10), look.pick('skin'))
    helmet = [(0.07, 1.7), (0.43, 1.72), (0.34, 1.84), (0.14, 1.84)]
    part(helmet, look.pick('cloth'))


def _motorcycle(canvas, look, side):
    part = _brush(canvas, side, MOTORCYCLE)
    paint = look.pick('motorcycle')
    part([(-0.7, 0.3), (0.7, 0.3), (0.62, 0.7), (0.2, 0.8), (-0.6, 0.8)],
         (70, 70, 74))  # fmt: skip
    for u in (-0.68, 0.72):
        wheel = part(disc(u, 0.35, 0.36, points=14), (24, 24, 26))
        canvas.detail(wheel, [disc(u, 0.35, 0.17, points=8)], STEEL)
    part(bar((0.72, 0.35), (0.45, 0.98), 0.12), STEEL)
    part([(-0.05, 0.72), (0.5, 0.74), (0.44, 1.0), (0.05, 1.02)], paint)
    seat = [(-0.98, 0.84), (-0.8, 0.7), (0, 0.7), (0.02, 0.86), (-0.5, 0.92)]
    part(seat, BLACK)
    part([(-1.0, 0.62), (-0.4, 0.6), (-0.4, 0.72), (-0.95, 0.8)], paint)
    part(bar((-0.9, 0.28), (0.0, 0.34), 0.13), STEEL)
    lamp = part(disc(0.6, 0.96, 0.14, points=10), (60, 60, 64))
    glass = [disc(0.64, 0.96, 0.09, points=8)]
    canvas.detail(lamp, glass, WHITE_LAMP, glow=WHITE_LAMP)
    part(bar((0.42, 1.0), (0.28, 1.14), 0.09), BLACK)


def _biker(part, canvas, look):
    jacket, legs = look.pick('cloth'), look.pick('trousers')
    part(bar((-0.28, 0.95), (0.16, 0.8), 0.25), legs)
    part(bar((0.14, 0.86), (0.0, 0.36), 0.18), legs)
    part([(-0.48, 0.86), (-0.12, 0.86), (0.16, 1.4), (0.04, 1.54),
          (-0.22, 1.48)], jacket)  # fmt: skip
    part(bar((0.02, 1.42), (0.34, 1.12), 0.16), dim(jacket, 0.8))
    helmet = part(disc(0.12, 1.68, 0.19, points=10), look.pick('car'))
    canvas.detail(helmet, [rect(0.14, 1.6, 0.31, 1.72)], BLACK)
