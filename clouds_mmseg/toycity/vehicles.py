"""Cars, trucks, buses and trams."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from clouds_mmseg.toycity.camera import Frame
from clouds_mmseg.toycity.canvas import Canvas
from clouds_mmseg.toycity.solids import (
    Footprint,
    Item,
    box,
    centred,
    disc,
    extrude,
    ground_shadow,
    rect,
    rects,
)
from clouds_mmseg.toycity.styles import (
    AMBER,
    BLACK,
    BUS,
    CAR,
    RED_LAMP,
    TRAIN,
    TRUCK,
    WHITE,
    WHITE_LAMP,
    Look,
    dim,
    mix,
)

TYRE = (26, 26, 28)
HUB = (150, 152, 156)
# Wheels lower than this many pixels of the canvas are a mere strip.
SMALL = 9


def tyres(
    canvas: Canvas,
    frame: Frame,
    class_id: int,
    *,
    half: float,
    axles: Sequence[float],
    radius: float,
) -> None:
    """Paint the tyres as blocks, before the body that covers their tops.

    Args:
        canvas: Where.
        frame: Axes of the vehicle.
        class_id: Train id of the vehicle.
        half: Distance of a tyre's outside from the middle in metres.
        axles: Forward positions of the axles in metres.
        radius: Of the wheels, in metres.
    """
    if canvas.scale_at(frame.origin[2]) * 2 * radius < SMALL:
        zs = (axles[0] - radius, axles[-1] + radius)
        box(canvas, frame, (-half, half), (0, radius), zs, TYRE, class_id)
        return
    for z in axles:
        for xs in ((-half, 0.24 - half), (half - 0.24, half)):
            zs = (z - radius * 0.9, z + radius * 0.9)
            box(
                canvas,
                frame,
                xs,
                (0, radius * 1.9),
                zs,
                TYRE,
                class_id,
                rough=0,
            )


def discs(
    canvas: Canvas,
    frame: Frame,
    faces: Mapping,
    class_id: int,
    *,
    half: float,
    axles: Sequence[float],
    radius: float,
) -> None:
    """Paint the wheels on the sides in sight; arguments as in tyres()."""
    for name, sign in (('left', -1), ('right', 1)):
        if name not in faces:
            continue
        side = frame.face((sign * half * 1.01, 0, 0), (0, 0, 1), (0, 1, 0))
        for z in axles:
            made = canvas.paint(
                side, disc(z, radius, radius), TYRE, class_id, rough=0
            )
            hub = disc(z, radius, radius * 0.55, points=8)
            canvas.detail(made, [hub], HUB)


PLATE = (236, 236, 226)
# The cabin seen from the side, from the rear window's foot over the roof to
# the windscreen's: (forward, up) in metres; and half of the body's length.
CABINS = {
    'hatch': ([(-1.95, 0.92), (-1.62, 1.46), (0.35, 1.5), (1.1, 0.94)], 2.05),
    'sedan': ([(-1.5, 0.92), (-0.95, 1.4), (0.35, 1.42), (1.05, 0.92)], 2.2),
    'van': ([(-2.15, 0.98), (-2.05, 1.86), (0.85, 1.9), (1.5, 1.0)], 2.2),
}
AXLES = (-1.32, 1.36)


def draw_car(canvas: Canvas, look: Look, frame: Frame, car: 'Vehicle') -> None:
    """Paint a car of one of the kinds in ``CABINS``."""
    paint, glass = look.pick('car'), look.pick('glass')
    cabin, half = CABINS[car.kind]
    body = [
        (-half, 0.32),
        (-half, 0.78),
        (cabin[0][0] - 0.1, 0.95),
        (cabin[3][0] + 0.1, 0.95),
        (half - 0.1, 0.78),
        (half, 0.32),
    ]
    tyres(canvas, frame, CAR, half=0.84, axles=AXLES, radius=0.32)
    faces = extrude(
        canvas,
        frame,
        body,
        0.9,
        [paint] * 5 + [dim(paint, 0.35)],
        dim(paint, 0.92),
        CAR,
        rough=0.1,
    )
    tops = extrude(
        canvas,
        frame,
        cabin,
        0.74,
        [glass, paint, glass, paint],
        paint,
        CAR,
        rough=0.05,
    )
    discs(canvas, frame, faces, CAR, half=0.9, axles=AXLES, radius=0.34)
    _windows(canvas, tops, cabin, paint, glass)
    _ends(canvas, faces.get(0), faces.get(4), paint)


def _windows(canvas, tops, cabin, paint, glass):
    (ra, rb, fb, fa) = cabin
    low, high = ra[1] + 0.06, min(rb[1], fb[1]) - 0.07
    middle = (rb[0] + fb[0]) / 2 - 0.1
    rear = [
        (ra[0] + 0.22, low),
        (rb[0] + 0.1, high),
        (middle - 0.05, high),
        (middle - 0.05, low),
    ]
    front = [
        (middle + 0.05, low),
        (middle + 0.05, high),
        (fb[0] - 0.08, high),
        (fa[0] - 0.2, low),
    ]
    for name in ('left', 'right'):
        canvas.detail(tops.get(name), [rear, front], glass)
    for strip in (0, 2):
        # Pillars, and the sky mirrored in the pane.
        pillars = [rect(0, 0, 0.08, 1), rect(1.4, 0, 1.48, 1)]
        canvas.detail(tops.get(strip), pillars, paint)
        shine = [(0.3, 0.15), (0.5, 0.15), (0.95, 0.85), (0.7, 0.85)]
        canvas.detail(tops.get(strip), [shine], mix(glass, WHITE, 0.3))


def _ends(canvas, rear, front, paint):
    lamps = [rect(0.06, 0.52, 0.36, 0.88), rect(1.44, 0.52, 1.74, 0.88)]
    canvas.detail(rear, lamps, (190, 20, 20), glow=RED_LAMP)
    canvas.detail(rear, [rect(0.62, 0.4, 1.18, 0.7)], PLATE)
    canvas.detail(rear, [rect(0.0, 0.0, 1.8, 0.2)], dim(paint, 0.5))
    # The strip of the front runs downwards.
    lamps = [rect(0.08, 0.12, 0.4, 0.5), rect(1.4, 0.12, 1.72, 0.5)]
    canvas.detail(front, lamps, WHITE_LAMP, glow=WHITE_LAMP)
    canvas.detail(front, [rect(0.5, 0.2, 1.3, 0.55)], BLACK)
    canvas.detail(front, [rect(0.65, 0.65, 1.15, 0.88)], PLATE)


CAB = 2.1


def draw_truck(
    canvas: Canvas, look: Look, frame: Frame, truck: 'Vehicle'
) -> None:
    """Paint a lorry."""
    cargo, cab = look.pick('truck'), look.pick('cab')
    glass = look.pick('glass')
    half = truck.length / 2
    axles = (1.1 - half, 2.3 - half, half - 1.2)
    tyres(canvas, frame, TRUCK, half=1.2, axles=axles, radius=0.5)
    zs = (-half, half - 0.2)
    box(canvas, frame, (-0.7, 0.7), (0.45, 0.95), zs, (46, 46, 50), TRUCK)
    parts = [
        lambda: _cab(canvas, frame, half, cab, glass),
        lambda: _cargo(canvas, frame, half, cargo),
    ]
    # The nearer part hides the other.
    if math.cos(truck.heading) < 0:
        parts.reverse()
    faces = {}
    for part in parts:
        faces.update(part())
    discs(canvas, frame, faces, TRUCK, half=1.22, axles=axles, radius=0.5)


def _cargo(canvas, frame, half, paint):
    length = 2 * half - CAB - 0.2
    zs = (-half, length - half)
    faces = box(
        canvas, frame, (-1.25, 1.25), (0.95, 3.5), zs, paint, TRUCK, rough=0.2
    )
    back, line = faces.get('back'), dim(paint, 0.55)
    seams = [
        rect(1.21, 0.1, 1.29, 2.42),
        rect(0.0, 0.0, 2.5, 0.1),
        rect(0, 2.42, 2.5, 2.55),
        rect(0, 0.1, 0.1, 2.42),
        rect(2.4, 0.1, 2.5, 2.42),
    ]
    canvas.detail(back, seams, line)
    bars = rects((0.55, 0.95, 1.5, 1.9), [0.15], 0.06, 2.2)
    canvas.detail(back, bars, mix(paint, WHITE, 0.5))
    blocks = np.arange(0, 2.5, 0.5)
    canvas.detail(back, rects(blocks, [0.0], 0.25, 0.16), WHITE)
    canvas.detail(back, rects(blocks + 0.25, [0.0], 0.25, 0.16), (220, 30, 30))
    bumper = box(
        canvas,
        frame,
        (-1.15, 1.15),
        (0.5, 0.8),
        (-half - 0.02, -half + 0.1),
        (60, 60, 64),
        TRUCK,
        rough=0,
    )
    lamps = [rect(0.05, 0.03, 0.4, 0.27), rect(1.9, 0.03, 2.25, 0.27)]
    canvas.detail(bumper.get('back'), lamps, (200, 24, 20), glow=RED_LAMP)
    for name in ('left', 'right'):
        side = faces.get(name)
        rails = [rect(0, 0, length, 0.12), rect(0, 2.43, length, 2.55)]
        canvas.detail(side, rails, line)
        ribs = rects(np.arange(0.8, length, 0.8), [0.12], 0.06, 2.3)
        canvas.detail(side, ribs, dim(paint, 0.85))
        board = rect(length * 0.25, 0.8, length * 0.75, 1.7)
        canvas.detail(side, [board], mix(paint, WHITE, 0.6))
    return faces


def _cab(canvas, frame, half, paint, glass):
    faces = box(
        canvas,
        frame,
        (-1.2, 1.2),
        (0.5, 3.0),
        (half - CAB, half),
        paint,
        TRUCK,
        rough=0.1,
    )
    front = faces.get('front')
    canvas.detail(front, [rect(0.15, 1.25, 2.25, 2.15)], glass)
    canvas.detail(front, [rect(0.5, 0.35, 1.9, 0.95)], BLACK)
    canvas.detail(front, [rect(0.0, 0.0, 2.4, 0.2)], (70, 70, 74))
    lamps = [rect(0.08, 0.35, 0.42, 0.65), rect(1.98, 0.35, 2.32, 0.65)]
    canvas.detail(front, lamps, WHITE_LAMP, glow=WHITE_LAMP)
    for name, start in (('left', 0.2), ('right', 0.8)):
        window = rect(start, 1.25, start + 1.1, 2.1)
        canvas.detail(faces.get(name), [window], glass)
    return faces


DARK = (56, 56, 60)


def draw_bus(canvas: Canvas, look: Look, frame: Frame, bus: 'Vehicle') -> None:
    """Paint a bus: a box with a band of windows all around."""
    paint, glass = look.pick('bus'), look.pick('glass')
    length, half = bus.length, bus.length / 2
    axles = (2.6 - half, half - 2.4)
    tyres(canvas, frame, BUS, half=1.15, axles=axles, radius=0.48)
    faces = box(
        canvas,
        frame,
        (-1.27, 1.27),
        (0.32, 3.1),
        (-half, half),
        {None: paint, 'top': mix(paint, WHITE, 0.4)},
        BUS,
        rough=0.08,
    )
    for name in ('left', 'right'):
        side = faces.get(name)
        canvas.detail(side, [rect(0, 0, length, 0.28)], dim(paint, 0.55))
        canvas.detail(side, [rect(0.3, 1.1, length - 0.3, 2.3)], glass)
        posts = rects(np.arange(1.7, length - 1, 1.6), [1.1], 0.1, 1.2)
        canvas.detail(side, posts, dim(paint, 0.5))
        # Doors are on the kerb side.
        if name == 'right':
            doors = rects((length * 0.45, length - 1.8), [0.1], 1.3, 2.2)
            canvas.detail(side, doors, mix(glass, WHITE, 0.25))
    discs(canvas, frame, faces, BUS, half=1.27, axles=axles, radius=0.5)
    back, front = faces.get('back'), faces.get('front')
    canvas.detail(back, [rect(0.25, 1.45, 2.29, 2.3)], glass)
    canvas.detail(back, [rect(0.55, 0.5, 1.99, 1.2)], dim(paint, 0.6))
    lamps = [rect(0.1, 0.35, 0.44, 1.1), rect(2.1, 0.35, 2.44, 1.1)]
    canvas.detail(back, lamps, (196, 20, 20), glow=RED_LAMP)
    canvas.detail(front, [rect(0.12, 0.95, 2.42, 2.25)], glass)
    lamps = [rect(0.12, 0.3, 0.52, 0.62), rect(2.02, 0.3, 2.42, 0.62)]
    canvas.detail(front, lamps, WHITE_LAMP, glow=WHITE_LAMP)
    for end in (back, front):
        canvas.detail(end, [rect(0, 0, 2.54, 0.22)], DARK)
        canvas.detail(end, [rect(0.4, 2.4, 2.14, 2.68)], BLACK)
        number = rects(np.arange(0.55, 2.0, 0.3), [2.46], 0.18, 0.15)
        canvas.detail(end, number, AMBER, glow=AMBER)


def draw_tram(
    canvas: Canvas, look: Look, frame: Frame, tram: 'Vehicle'
) -> None:
    """Paint a tram: long, with slanting ends and a pantograph."""
    paint, glass = look.pick('tram'), look.pick('glass')
    cream = mix(paint, (246, 246, 236), 0.88)
    half = tram.length / 2
    profile = [
        (-half, 0.3),
        (-half - 0.15, 1.25),
        (-half + 0.45, 2.75),
        (-half + 0.9, 3.3),
        (half - 0.9, 3.3),
        (half - 0.45, 2.75),
        (half + 0.15, 1.25),
        (half, 0.3),
    ]
    strips = [paint, glass, paint, (150, 154, 158), paint, glass, paint, DARK]
    faces = extrude(
        canvas, frame, profile, 1.22, strips, paint, TRAIN, rough=0.08
    )
    end = half - 0.1
    for name in ('left', 'right'):
        side = faces.get(name)
        canvas.detail(side, [rect(-end, 0.95, end, 2.9)], cream)
        panes = rects(np.arange(0.7 - end, end - 1.5, 1.9), [1.35], 1.5, 1.1)
        canvas.detail(side, panes, glass)
        doors = rects(np.arange(3.1 - end, end - 2, 5.7), [0.4], 1.25, 2.2)
        canvas.detail(side, doors, dim(paint, 0.7))
        joints = rects(np.arange(6 - end, end - 3, 6.0), [0.3], 0.25, 3.0)
        canvas.detail(side, joints, DARK)
        canvas.detail(side, [rect(-end, 0.3, end, 0.5)], DARK)
    _tram_end(canvas, faces, (0, 1), cream, (200, 30, 20), RED_LAMP)
    _tram_end(canvas, faces, (6, 5), cream, WHITE_LAMP, WHITE_LAMP)
    roof = frame.face((0, 3.3, 0), (1, 0, 0), (0, 1, 0))
    for outline in (
        [(-0.5, 0), (-0.4, 0), (0.1, 0.9), (0.0, 0.9)],
        [(0.4, 0), (0.5, 0), (0.0, 0.9), (-0.1, 0.9)],
        rect(-0.8, 0.88, 0.8, 1.0),
    ):
        canvas.paint(roof, outline, (70, 72, 76), TRAIN, rough=0)


def _tram_end(canvas, faces, strips, cream, colour, lamp):
    # The strips of the front run downwards, those of the rear upwards.
    def part(u0, v0, u1, v1):
        if strips[0] > 0:
            v0, v1 = 1 - v1, 1 - v0
        return rect(u0, v0, u1, v1)

    apron, pane = faces.get(strips[0]), faces.get(strips[1])
    canvas.detail(apron, [part(0, 0.68, 2.44, 0.98)], cream)
    lamps = [part(0.15, 0.3, 0.59, 0.58), part(1.85, 0.3, 2.29, 0.58)]
    canvas.detail(apron, lamps, colour, glow=lamp)
    pillars = [rect(0, 0, 0.14, 1), rect(2.3, 0, 2.44, 1)]
    canvas.detail(pane, pillars, cream)
    board = [part(0.5, 0.8, 1.94, 0.95)]
    canvas.detail(pane, board, (255, 170, 40), glow=(255, 150, 40))


DRAW = {'truck': draw_truck, 'bus': draw_bus, 'tram': draw_tram}


@dataclass(frozen=True)
class Vehicle(Item):
    """Anything on four wheels or rails.

    Attributes:
        kind: 'hatch', 'sedan', 'van', 'truck', 'bus' or 'tram'.
        heading: Direction of travel, radians clockwise from world z; only
            0 and pi keep the footprint true.
        length: Length in metres.
    """

    kind: str = 'hatch'
    heading: float = 0.0
    length: float = 4.4

    @property
    def box(self) -> Footprint:
        """Footprint (x0, x1, z0, z1) in metres."""
        wide = 1.27 if self.kind in DRAW else 0.92
        return centred(self.x, self.z, wide, self.length / 2)

    @property
    def top(self) -> float:
        """Height of the vehicle in metres."""
        return 4.4 if self.kind in DRAW else 2.0

    @property
    def solid(self) -> float:
        """Height of its vertical walls in metres."""
        return {'truck': 2.9, 'bus': 3.0, 'tram': 1.2}.get(self.kind, 0.75)

    def draw(self, canvas: Canvas, look: Look) -> None:
        """Paint the vehicle."""
        frame = canvas.camera.frame(self.x, self.z, self.heading)
        half = self.length / 2
        wide = 1.5 if self.kind in DRAW else 1.15
        ground_shadow(canvas, look, frame, wide, half + 0.2)
        DRAW.get(self.kind, draw_car)(canvas, look, frame, self)
