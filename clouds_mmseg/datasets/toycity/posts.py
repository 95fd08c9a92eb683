"""Poles, and what hangs on them: lamps, traffic lights, signs."""

from dataclasses import dataclass

from clouds_mmseg.datasets.toycity.item import Item, centred
from clouds_mmseg.datasets.toycity.look import (
    LIGHT,
    POLE,
    WARM_LAMP,
    dim,
    ground_shadow,
)
from clouds_mmseg.datasets.toycity.shapes import bar, disc, rect
from clouds_mmseg.datasets.toycity.signs import draw_sign

RED_AMBER_GREEN = ((255, 40, 30), (255, 180, 20), (40, 240, 110))
HALF = 0.13


@dataclass(frozen=True)
class Post(Item):
    """An upright pole and what it carries.

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
    def reach(self):
        """How far the arm or the load sticks out, in metres."""
        return self.arm + 0.6

    @property
    def box(self):
        """Footprint (x0, x1, z0, z1) in metres."""
        return centred(self.x, self.z, 0.15, 0.15)

    @property
    def top(self):
        """Height of the load in metres."""
        return self.height + 0.9

    @property
    def lamp(self):
        """World point (3,) of a street lamp, None for other posts."""
        if self.kind != 'lamp':
            return None
        return (self.x + self.towards * self.arm, self.height, self.z)

    def draw(self, canvas, look):
        """Paint the post and its load."""
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
