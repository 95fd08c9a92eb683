"""The ground of a street: carriageway, markings, kerbs, pavements."""

from dataclasses import dataclass

import numpy as np

from clouds_mmseg.toycity.canvas import Canvas
from clouds_mmseg.toycity.solids import rect, rects
from clouds_mmseg.toycity.styles import ROAD, SIDEWALK, TERRAIN, Look, dim, mix

# Width of a lane, of a parking bay, and how far the ground reaches; metres.
LANE = 3.2
BAY = 2.2
FAR = 320.0
# Markings begin here: nearer ground lies below the image.
START = 1.0


@dataclass(frozen=True)
class Lane:
    """A lane of the carriageway.

    Attributes:
        x: Centre across the street in metres.
        direction: 1 for ahead, -1 for oncoming.
        tram: Whether rails lie in it.
    """

    x: float
    direction: int
    tram: bool = False


@dataclass(frozen=True)
class Side:
    """What lies beyond one kerb, outwards.

    Attributes:
        sign: -1 on the left, 1 on the right.
        kerb: Position of the kerb across the street in metres.
        parking: Whether there are parking bays along the kerb.
        verge: Width of the grass strip in metres.
        pavement: Width of the pavement in metres.
    """

    sign: int
    kerb: float
    parking: bool
    verge: float
    pavement: float

    @property
    def edge(self) -> float:
        """Where the pavement begins, across the street in metres."""
        return self.kerb + self.sign * self.verge

    @property
    def plot(self) -> float:
        """Where private ground begins, across the street in metres."""
        return self.edge + self.sign * self.pavement


@dataclass(frozen=True)
class Street:
    """A straight street; the camera drives in the lane around x = 0.

    Attributes:
        lanes: From left to right.
        sides: The left and the right side.
        crosswalk: Distance of the crosswalk in metres, None without.
        grass: Whether the ground beyond the plots is grass.
        marks: Where dashes begin, and manholes (x, z), in metres.
    """

    lanes: tuple[Lane, ...]
    sides: tuple[Side, Side]
    crosswalk: float | None = None
    grass: bool = True
    marks: tuple = (0.0, ())

    def draw(self, canvas: Canvas, look: Look) -> None:
        """Paint the whole ground."""
        left, right = self.sides
        pavement, kerb = look.pick('sidewalk'), look.pick('kerb')
        lawn, asphalt = look.pick('terrain'), look.pick('road')
        if self.grass:
            _strip(canvas, -FAR, FAR, lawn, TERRAIN, 0.8)
        else:
            _strip(canvas, -FAR, FAR, dim(pavement, 0.9), SIDEWALK, 0.4)
        for side in self.sides:
            x0, x1 = sorted((side.edge, side.plot))
            paved = _strip(canvas, x0, x1, pavement, SIDEWALK, 0.4)
            slabs = rects([x0], np.arange(2, 50, 2.0), x1 - x0, 0.07)
            canvas.detail(paved, slabs, dim(pavement, 0.85))
            if side.verge:
                x0, x1 = sorted((side.kerb, side.edge))
                _strip(canvas, x0, x1, look.pick('terrain'), TERRAIN, 0.8)
        road = _strip(canvas, left.kerb, right.kerb, asphalt, ROAD, 0.35)
        for side in self.sides:
            x0, x1 = sorted((side.kerb, side.kerb + side.sign * 0.3))
            _strip(canvas, x0, x1, kerb, SIDEWALK, 0.2)
            x0, x1 = sorted((side.kerb, side.kerb - side.sign * 0.35))
            gutter = [rect(x0, START, x1, FAR)]
            canvas.detail(road, gutter, dim(asphalt, 0.85))
        for lane in self.lanes:
            if lane.tram:
                _rails(canvas, road, lane.x, asphalt)
        self._markings(canvas, road, look.pick('paint'), asphalt)

    def _markings(self, canvas, road, white, asphalt):
        first, manholes = self.marks
        covers = [rect(x, z, x + 0.7, z + 0.7) for x, z in manholes]
        canvas.detail(road, covers, dim(asphalt, 0.7))
        for a, b in zip(self.lanes, self.lanes[1:], strict=False):
            middle = (a.x + b.x) / 2
            if a.tram:
                line = [rect(middle - 0.07, START, middle + 0.07, 200)]
                canvas.detail(road, line, white)
            elif a.direction != b.direction:
                lines = [
                    rect(x, START, x + 0.14, 200)
                    for x in (middle - 0.2, middle + 0.06)
                ]
                canvas.detail(road, lines, white)
            else:
                starts = np.arange(START + first, 90, 7.0)
                dashes = rects([middle - 0.08], starts, 0.16, 3.2)
                canvas.detail(road, dashes, white)
        for side in self.sides:
            if side.parking:
                x = min(side.kerb, side.kerb - side.sign * BAY)
                bays = rects([x], np.arange(START, 70, 5.5), BAY, 0.12)
                canvas.detail(road, bays, white)
        if self.crosswalk is not None:
            x0, x1 = self.sides[0].kerb + 0.4, self.sides[1].kerb - 0.9
            z = self.crosswalk
            bars = rects(np.arange(x0, x1, 1.1), [z], 0.55, 3.2)
            canvas.detail(road, bars, white)
            canvas.detail(road, [rect(-1.5, z - 1.6, 1.5, z - 1.15)], white)


def _rails(canvas, road, x, asphalt):
    bed = [rect(x - 1.1, START, x + 1.1, 200)]
    canvas.detail(road, bed, mix(asphalt, (150, 140, 130), 0.3))
    rails = [rect(u, START, u + 0.12, 200) for u in (x - 0.78, x + 0.66)]
    canvas.detail(road, rails, (58, 56, 58))


def _strip(canvas, x0, x1, colour, class_id, rough):
    """Paint a strip of ground along the street, with u = x and v = z."""
    ground = canvas.camera.frame().face((0, 0, 0), (1, 0, 0), (0, 0, 1))
    outline = rect(x0, 0.1, x1, FAR)
    return canvas.paint(ground, outline, colour, class_id, rough=rough)
