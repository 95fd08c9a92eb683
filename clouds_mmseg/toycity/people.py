"""Pedestrians."""

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
)
from clouds_mmseg.toycity.styles import BLACK, PERSON, Look, dim

# Height in metres of the figure that the numbers below describe.
UNIT = 1.78


@dataclass(frozen=True)
class Pedestrian(Item):
    """A pedestrian, standing or walking.

    Attributes:
        height: Height in metres.
        stride: Distance between the feet in metres.
        facing: -1 to the left, 1 to the right, 0 along the street.
        away: Whether one facing along the street shows the back.
        bag: Whether something is carried.
    """

    height: float = 1.75
    stride: float = 0.5
    facing: int = 0
    away: bool = False
    bag: bool = False

    reach = 0.3

    @property
    def box(self) -> Footprint:
        """Footprint (x0, x1, z0, z1) in metres."""
        return centred(self.x, self.z, 0.3, 0.25)

    @property
    def top(self) -> float:
        """Height of the person in metres."""
        return self.height + 0.1

    def draw(self, canvas: Canvas, look: Look) -> None:
        """Paint the person."""
        frame = canvas.camera.frame(self.x, self.z)
        ground_shadow(canvas, look, frame, 0.45, 0.25)
        face = canvas.camera.billboard(self.x, self.z, self.height / UNIT)
        shirt, legs = look.pick('cloth'), look.pick('trousers')
        skin, hair = look.pick('skin'), look.pick('hair')

        def part(outline, colour):
            canvas.paint(
                face, outline, colour, PERSON, rough=0.15, shade=False
            )

        foot = self.stride / 2
        for sign in (-1, 1):
            self._leg(part, sign, legs if sign > 0 else dim(legs, 0.75))
        lean = 0.03 * self.facing
        wide = 0.2 if self.facing else 0.25
        hands = wide + foot * 0.5
        part(bar((lean - wide, 1.36), (lean - hands, 0.8), 0.13),
             dim(shirt, 0.7))  # fmt: skip
        torso = [
            (-wide, 0.82),
            (wide, 0.82),
            (wide + lean + 0.02, 1.42),
            (lean + 0.1, 1.5),
            (lean - 0.1, 1.5),
            (lean - wide - 0.02, 1.42),
        ]
        part(torso, shirt)
        part(bar((lean + wide, 1.36), (lean + hands, 0.8), 0.13),
             dim(shirt, 0.85))  # fmt: skip
        if self.bag:
            part(rect(hands - 0.12, 0.45, hands + 0.16, 0.8), dim(legs, 1.5))
        part(disc(lean, 1.67, 0.12, stretch=1.1, points=10), hair)
        if self.facing or not self.away:
            part(disc(lean * 2.5, 1.63, 0.1, points=8), skin)

    def _leg(self, part, sign, tone):
        x = sign * self.stride / 2 * (1 if self.facing else 0.5)
        hip, toe = 0.1 * sign, 0.1 * self.facing
        part([(x - 0.1, 0), (x + 0.1, 0), (hip + 0.12, 0.88),
              (hip - 0.12, 0.88)], tone)  # fmt: skip
        shoe = rect(x - 0.11 + min(toe, 0), 0, x + 0.11 + max(toe, 0), 0.09)
        part(shoe, BLACK)
