"""The ground of a street: carriageway, markings, kerbs, pavements."""

from dataclasses import dataclass, field

import numpy as np

from clouds_mmseg.datasets.toycity.canvas import Face
from clouds_mmseg.datasets.toycity.look import (
    ROAD,
    SIDEWALK,
    TERRAIN,
    dim,
    mix,
)
from clouds_mmseg.datasets.toycity.shapes import rect, rects

LANE = 3.2
FAR = 320.0


@dataclass(frozen=True)
class Side:
    """What lies beyond one kerb, outwards.

    Attributes:
        sign: -1 on the left, 1 on the right.
        kerb: Place of the kerb across the street in metres.
        verge: Width of the grass strip in metres.
        pavement: Width of the pavement in metres.
    """

    sign: int
    kerb: float
    verge: float
    pavement: float

    @property
    def plot(self):
        """Where private ground begins, across the street in metres."""
        return self.kerb + self.sign * (self.verge + self.pavement)


@dataclass(frozen=True)
class Street:
    """A straight street; the camera drives in the lane around x = 0.

    Attributes:
        lanes: (centre in metres, 1 for ahead or -1 for oncoming, kind 'road'
            or 'tram') from left to right.
        sides: The left and the right side.
        crosswalk: Distance of the crosswalk in metres, None without.
        grass: Whether the ground beyond the plots is grass.
        seed: What places stains and manholes.
    """

    lanes: tuple
    sides: tuple[Side, Side]
    crosswalk: float | None = None
    grass: bool = True
    seed: int = 0
    parking: tuple = field(default=(False, False))

    def draw(self, canvas, look):
        """Paint the whole ground, and return the face of the road."""
        left, right = self.sides
        base = look.pick('terrain')
        pavement, kerb = look.pick('sidewalk'), look.pick('kerb')
        if self.grass:
            _strip(canvas, -FAR, FAR, base, TERRAIN, rough=0.8)
        else:
            _strip(canvas, -FAR, FAR, pavement, SIDEWALK, rough=0.4)
        for side in self.sides:
            edge = side.kerb + side.sign * side.verge
            paved = _strip(
                canvas, *sorted((edge, side.plot)), pavement, SIDEWALK,
                rough=0.4,
            )  # fmt: skip
            self._slabs(canvas, paved, side, dim(pavement, 0.85))
            if side.verge:
                _strip(
                    canvas, *sorted((side.kerb, edge)),
                    look.pick('terrain'), TERRAIN, rough=0.8,
                )  # fmt: skip
        asphalt = look.pick('road')
        road = _strip(canvas, left.kerb, right.kerb, asphalt, ROAD, rough=0.35)
        for side in self.sides:
            _strip(
                canvas, *sorted((side.kerb, side.kerb + side.sign * 0.3)),
                kerb, SIDEWALK, rough=0.2,
            )  # fmt: skip
            gutter = sorted((side.kerb, side.kerb - side.sign * 0.35))
            canvas.detail(
                road, [rect(gutter[0], 0.5, gutter[1], FAR)],
                dim(asphalt, 0.85),
            )  # fmt: skip
        self._markings(canvas, look, road, asphalt)
        return road

    def _slabs(self, canvas, paved, side, line):
        edge = side.kerb + side.sign * side.verge
        x0, x1 = sorted((edge, side.plot))
        zs = np.arange(2, 60, 2.0)
        canvas.detail(paved, rects([x0], zs, x1 - x0, 0.07), line)

    def _markings(self, canvas, look, road, asphalt):
        white = look.pick('paint')
        rng = np.random.default_rng(self.seed)
        dashes = np.arange(-1 - rng.uniform(0, 4), 120, 7.0)
        for (a, one, kind), (b, other, _) in zip(
            self.lanes, self.lanes[1:], strict=False
        ):
            middle = (a + b) / 2
            if kind == 'tram':
                canvas.detail(
                    road, [rect(middle - 0.07, 0.7, middle + 0.07, 200)], white
                )
            elif one != other:
                for x in (middle - 0.2, middle + 0.06):
                    canvas.detail(road, [rect(x, 0.7, x + 0.14, 200)], white)
            else:
                marks = rects([middle - 0.08], dashes, 0.16, 3.2)
                canvas.detail(road, marks, white)
        for centre, _, kind in self.lanes:
            if kind == 'tram':
                canvas.detail(
                    road, [rect(centre - 1.1, 0.7, centre + 1.1, 200)],
                    mix(asphalt, (150, 140, 130), 0.3),
                )  # fmt: skip
                for x in (centre - 0.78, centre + 0.66):
                    canvas.detail(
                        road, [rect(x, 0.7, x + 0.12, 200)], (58, 56, 58)
                    )
        for side, parking in zip(self.sides, self.parking, strict=True):
            if parking:
                x = side.kerb - side.sign * 2.2
                bays = rects([min(x, side.kerb)], np.arange(1, 80, 5.5), 2.2,
                             0.12)  # fmt: skip
                canvas.detail(road, bays, white)
        if self.crosswalk is not None:
            x0, x1 = self.sides[0].kerb + 0.4, self.sides[1].kerb - 0.4
            bars = rects(np.arange(x0, x1 - 0.5, 1.1), [self.crosswalk], 0.55,
                         3.2)  # fmt: skip
            canvas.detail(road, bars, white)
            stop = self.crosswalk - 1.6
            canvas.detail(road, [rect(-1.5, stop, 1.5, stop + 0.45)], white)
        for _ in range(3):
            x, z = rng.uniform(-1.2, 1.2), rng.uniform(5, 30)
            canvas.detail(road, [rect(x, z, x + 0.7, z + 0.7)],
                          dim(asphalt, 0.7))  # fmt: skip


def _strip(canvas, x0, x1, colour, class_id, *, rough):
    """Paint a strip of ground and return it with u = x and v = z."""
    corners = np.array(
        [(x0, 0, 0.1), (x1, 0, 0.1), (x1, 0, FAR), (x0, 0, FAR)], float
    )
    made = canvas.surface(corners, colour, class_id, rough=rough)
    return Face(
        np.zeros(3), np.array([1.0, 0, 0]), np.array([0, 0, 1.0]),
        made.surface, made.light,
    )  # fmt: skip
