"""Cars, trucks, buses and trams, each a shape of its own."""

from dataclasses import dataclass

import numpy as np

from clouds_mmseg.datasets.toycity.look import (
    BLACK,
    BUS,
    CAR,
    RED_LAMP,
    TRAIN,
    TRUCK,
    WHITE_LAMP,
    dim,
    ground_shadow,
    mix,
)
from clouds_mmseg.datasets.toycity.shapes import (
    Frame,
    box,
    disc,
    extrude,
    paint_face,
    rect,
    rects,
)

TYRE = (26, 26, 28)
HUB = (150, 152, 156)
PLATE = (236, 236, 226)
# Cars by their side view: cabin (forward, up) from the rear window's foot to
# the windscreen's, in metres, and the length of the body.
CABINS = {
    'hatch': ([(-1.95, 0.92), (-1.62, 1.46), (0.35, 1.5), (1.1, 0.94)], 2.05),
    'sedan': ([(-1.5, 0.92), (-0.95, 1.4), (0.35, 1.42), (1.05, 0.92)], 2.25),
    'van': ([(-2.15, 0.98), (-2.05, 1.86), (0.85, 1.9), (1.5, 1.0)], 2.2),
}


@dataclass(frozen=True)
class Vehicle:
    """Anything on four wheels or rails.

    Attributes:
        kind: 'hatch', 'sedan', 'van', 'truck', 'bus' or 'tram'.
        x: Centre across the street in metres.
        z: Centre along the street in metres.
        heading: Direction of travel, radians clockwise from world z.
        length: Length in metres (trams, trucks and buses).
    """

    kind: str
    x: float
    z: float
    heading: float = 0.0
    length: float = 4.3

    @property
    def box(self):
        """Footprint (x0, x1, z0, z1) in metres."""
        half = self.length / 2
        return (self.x - 1.0, self.x + 1.0, self.z - half, self.z + half)

    def draw(self, canvas, look):
        """Paint the vehicle."""
        frame = Frame(self.x, self.z, self.heading)
        half = self.length / 2
        ground_shadow(
            canvas, look, frame, (-1.25, 1.25), (-half - 0.2, half + 0.2)
        )
        draw = {'truck': _truck, 'bus': _bus, 'tram': _tram}
        draw.get(self.kind, _car)(canvas, look, frame, self)


def _tyres(canvas, frame, class_id, *, half, axles, radius):
    for z in axles:
        for sign in (-1, 1):
            xs = sorted((sign * half, sign * (half - 0.24)))
            box(
                canvas, frame, xs, (0, radius * 1.9),
                (z - radius * 0.9, z + radius * 0.9), TYRE, class_id, rough=0,
            )  # fmt: skip


def _discs(canvas, frame, faces, class_id, *, half, axles, radius):
    for name, sign in (('left', -1), ('right', 1)):
        if name not in faces:
            continue
        side = frame.face((sign * half * 1.01, 0, 0), (0, 0, 1), (0, 1, 0))
        for z in axles:
            made = paint_face(
                canvas, side, disc(z, radius, radius), TYRE, class_id, rough=0
            )
            canvas.detail(made, [disc(z, radius, radius * 0.55)], HUB)


def _car(canvas, look, frame, car):
    paint, glass = look.pick('car'), look.pick('glass')
    cabin, half_length = CABINS[car.kind]
    body = [
        (-half_length, 0.32), (-half_length, 0.78), (cabin[0][0] - 0.1, 0.95),
        (cabin[3][0] + 0.1, 0.95), (half_length - 0.1, 0.78),
        (half_length, 0.32),
    ]  # fmt: skip
    axles = (-1.32, 1.36)
    _tyres(canvas, frame, CAR, half=0.84, axles=axles, radius=0.32)
    dark = dim(paint, 0.35)
    faces = extrude(
        canvas, frame, body, 0.9, [paint] * 5 + [dark], dim(paint, 0.92), CAR,
        rough=0.1,
    )  # fmt: skip
    tops = extrude(
        canvas, frame, cabin, 0.74, [glass, paint, glass, paint], paint, CAR,
        rough=0.05,
    )  # fmt: skip
    _discs(canvas, frame, faces, CAR, half=0.9, axles=axles, radius=0.34)
    (ra, rb, fb, fa) = cabin
    low, high = ra[1] + 0.06, min(rb[1], fb[1]) - 0.07
    middle = (rb[0] + fb[0]) / 2 - 0.1
    for name in ('left', 'right'):
        canvas.detail(
            tops.get(name),
            [
                [(ra[0] + 0.22, low), (rb[0] + 0.1, high),
                 (middle - 0.05, high), (middle - 0.05, low)],
                [(middle + 0.05, low), (middle + 0.05, high),
                 (fb[0] - 0.08, high), (fa[0] - 0.2, low)],
            ],
            glass,
        )  # fmt: skip
    for strip in (0, 2):
        # A light roof line around the panes.
        canvas.detail(
            tops.get(strip), [rect(0, 0, 0.08, 1), rect(1.4, 0, 1.48, 1)],
            paint,
        )  # fmt: skip
        canvas.detail(
            tops.get(strip),
            [[(0.3, 0.15), (0.5, 0.15), (0.95, 0.85), (0.7, 0.85)]],
            mix(glass, (255, 255, 255), 0.3),
        )
    rear, front = faces.get(0), faces.get(4)
    canvas.detail(
        rear, rects((0.06, 1.44), [0.52], 0.3, 0.36), (190, 20, 20),
        glow=RED_LAMP,
    )  # fmt: skip
    canvas.detail(rear, rect(0.62, 0.4, 1.18, 0.7), PLATE)
    canvas.detail(rear, rect(0.0, 0.0, 1.8, 0.2), dim(paint, 0.5))
    canvas.detail(front, rect(0.5, 0.3, 1.3, 0.7), BLACK)
    canvas.detail(
        front, rects((0.08, 1.4), [0.5], 0.32, 0.36), WHITE_LAMP,
        glow=WHITE_LAMP,
    )  # fmt: skip
    canvas.detail(front, rect(0.65, 0.05, 1.15, 0.25), PLATE)


def _truck(canvas, look, frame, truck):
    cargo, cab = look.pick('truck'), look.pick('cab')
    glass = look.pick('glass')
    half = truck.length / 2
    axles = (-half + 1.1, -half + 2.3, half - 1.2)
    _tyres(canvas, frame, TRUCK, half=1.2, axles=axles, radius=0.5)
    box(
        canvas, frame, (-0.7, 0.7), (0.45, 0.95), (-half, half - 0.2),
        (46, 46, 50), TRUCK, rough=0.1,
    )  # fmt: skip
    parts = [
        (half - 2.1, lambda: _truck_cab(canvas, frame, half, cab, glass)),
        (-half, lambda: _cargo(canvas, frame, half, cargo)),
    ]
    # The nearer part hides the other.
    if np.cos(frame.heading) < 0:
        parts.reverse()
    faces = {}
    for _, part in parts:
        faces.update(part())
    _discs(canvas, frame, faces, TRUCK, half=1.22, axles=axles, radius=0.5)


def _cargo(canvas, frame, half, paint):
    faces = box(
        canvas, frame, (-1.25, 1.25), (0.95, 3.5), (-half, half - 2.3),
        paint, TRUCK, rough=0.2,
    )  # fmt: skip
    back = faces.get('back')
    line = dim(paint, 0.55)
    canvas.detail(
        back,
        [rect(1.21, 0.1, 1.29, 2.5), rect(0.0, 0.0, 2.5, 0.1),
         rect(0, 2.42, 2.5, 2.55), rect(0, 0, 0.1, 2.55),
         rect(2.4, 0, 2.5, 2.55)],
        line,
    )  # fmt: skip
    canvas.detail(
        back, rects((0.55, 0.95, 1.5, 1.9), [0.15], 0.06, 2.2), (200, 200, 200)
    )
    canvas.detail(
        back, rects(np.arange(0, 2.5, 0.5), [0.0], 0.25, 0.16), (240, 240, 240)
    )
    canvas.detail(
        back,
        rects(np.arange(0.25, 2.5, 0.5), [0.0], 0.25, 0.16),
        (220, 30, 30),
    )
    bumper = box(
        canvas, frame, (-1.15, 1.15), (0.5, 0.8), (-half - 0.02, -half + 0.1),
        (60, 60, 64), TRUCK, rough=0,
    )  # fmt: skip
    canvas.detail(
        bumper.get('back'), rects((0.05, 1.9), [0.03], 0.35, 0.24),
        (200, 24, 20), glow=RED_LAMP,
    )  # fmt: skip
    for name in ('left', 'right'):
        length = 2 * half - 2.3
        canvas.detail(
            faces.get(name),
            [rect(0, 0, length, 0.12), rect(0, 2.43, length, 2.55)], line,
        )  # fmt: skip
        canvas.detail(
            faces.get(name),
            [rect(length * 0.2, 0.9, length * 0.8, 1.7)],
            mix(paint, (255, 255, 255), 0.6),
        )
    return faces


def _truck_cab(canvas, frame, half, paint, glass):
    faces = box(
        canvas, frame, (-1.2, 1.2), (0.5, 3.0), (half - 2.1, half), paint,
        TRUCK, rough=0.1,
    )  # fmt: skip
    front = faces.get('front')
    canvas.detail(front, [rect(0.15, 1.25, 2.25, 2.15)], glass)
    canvas.detail(front, [rect(0.5, 0.35, 1.9, 0.95)], BLACK)
    canvas.detail(front, [rect(0.0, 0.0, 2.4, 0.2)], (70, 70, 74))
    canvas.detail(
        front, rects((0.08, 1.98), [0.35], 0.34, 0.3), WHITE_LAMP,
        glow=WHITE_LAMP,
    )  # fmt: skip
    for name, start in (('left', 0.2), ('right', 0.8)):
        canvas.detail(
            faces.get(name), [rect(start, 1.25, start + 1.1, 2.1)], glass
        )
    return faces


def _bus(canvas, look, frame, bus):
    paint, glass = look.pick('bus'), look.pick('glass')
    half = bus.length / 2
    axles = (-half + 2.6, half - 2.4)
    _tyres(canvas, frame, BUS, half=1.15, axles=axles, radius=0.48)
    faces = box(
        canvas, frame, (-1.27, 1.27), (0.32, 3.1), (-half, half),
        {None: paint, 'top': mix(paint, (255, 255, 255), 0.4)}, BUS,
        rough=0.08,
    )  # fmt: skip
    for name in ('left', 'right'):
        side = faces.get(name)
        canvas.detail(side, [rect(0, 0, bus.length, 0.28)], dim(paint, 0.55))
        canvas.detail(side, [rect(0.3, 1.1, bus.length - 0.3, 2.3)], glass)
        canvas.detail(
            side, rects(np.arange(1.7, bus.length - 1, 1.6), [1.1], 0.1, 1.2),
            dim(paint, 0.5),
        )  # fmt: skip
        # Doors are on the kerb side.
        if name == 'right':
            canvas.detail(
                side, rects((bus.length * 0.45, bus.length - 1.8), [0.1], 1.3,
                            2.2),
                mix(glass, (255, 255, 255), 0.25),
            )  # fmt: skip
    _discs(canvas, frame, faces, BUS, half=1.27, axles=axles, radius=0.5)
    back, front = faces.get('back'), faces.get('front')
    canvas.detail(back, [rect(0.25, 1.45, 2.29, 2.3)], glass)
    canvas.detail(back, [rect(0.55, 0.5, 1.99, 1.2)], dim(paint, 0.6))
    canvas.detail(
        back, rects((0.1, 2.1), [0.35], 0.34, 0.75), (196, 20, 20),
        glow=RED_LAMP,
    )  # fmt: skip
    canvas.detail(back, [rect(0, 0, 2.54, 0.22)], (50, 50, 54))
    canvas.detail(front, [rect(0.12, 0.95, 2.42, 2.25)], glass)
    canvas.detail(
        front, rects((0.12, 2.02), [0.3], 0.4, 0.32), WHITE_LAMP,
        glow=WHITE_LAMP,
    )  # fmt: skip
    canvas.detail(front, [rect(0, 0, 2.54, 0.22)], (50, 50, 54))
    for end in (back, front):
        canvas.detail(end, [rect(0.4, 2.4, 2.14, 2.68)], BLACK)
        canvas.detail(
            end, rects(np.arange(0.55, 2.0, 0.3), [2.46], 0.18, 0.15),
            (255, 160, 30), glow=(255, 150, 40),
        )  # fmt: skip


def _tram(canvas, look, frame, tram):
    paint, glass = look.pick('tram'), look.pick('glass')
    cream = mix(paint, (246, 246, 236), 0.88)
    half = tram.length / 2
    profile = [
        (-half, 0.3), (-half - 0.15, 1.25), (-half + 0.45, 2.75),
        (-half + 0.9, 3.3), (half - 0.9, 3.3), (half - 0.45, 2.75),
        (half + 0.15, 1.25), (half, 0.3),
    ]  # fmt: skip
    dark = (60, 60, 64)
    faces = extrude(
        canvas, frame, profile, 1.22,
        [paint, glass, paint, (150, 154, 158), paint, glass, paint, dark],
        paint, TRAIN, rough=0.08,
    )  # fmt: skip
    for name in ('left', 'right'):
        side = faces.get(name)
        end = half - 0.1
        canvas.detail(side, [rect(-end, 0.95, end, 2.9)], cream)
        canvas.detail(
            side, rects(np.arange(-end + 0.7, end - 1.5, 1.9), [1.35], 1.5, 1.1),
            glass,
        )  # fmt: skip
        canvas.detail(
            side, rects(np.arange(-end + 3.1, end - 2, 5.7), [0.4], 1.25, 2.2),
            dim(paint, 0.7),
        )  # fmt: skip
        canvas.detail(
            side, rects(np.arange(-end + 6, end - 3, 6.0), [0.3], 0.25, 3.0),
            dark,
        )  # fmt: skip
        canvas.detail(side, [rect(-end, 0.3, end, 0.5)], dark)
    for low, pane, lamp, colour in (
        (0, 1, RED_LAMP, (200, 30, 20)),
        (6, 5, WHITE_LAMP, WHITE_LAMP),
    ):
        # The front's strips run downwards, the rear's upwards.
        flip = (lambda v: v) if low == 0 else (lambda v: 1 - v)
        canvas.detail(
            faces.get(low), [rect(0, flip(0.68), 2.44, flip(0.98))], cream
        )
        for u in (0.15, 1.85):
            canvas.detail(
                faces.get(low), [rect(u, flip(0.3), u + 0.44, flip(0.58))],
                colour, glow=lamp,
            )  # fmt: skip
        canvas.detail(
            faces.get(pane),
            [rect(0, 0, 0.14, 1), rect(2.3, 0, 2.44, 1)], cream,
        )  # fmt: skip
        canvas.detail(
            faces.get(pane), [rect(0.5, flip(0.8), 1.94, flip(0.95))],
            (255, 170, 40), glow=(255, 150, 40),
        )  # fmt: skip
    _pantograph(canvas, frame)


def _pantograph(canvas, frame):
    side = frame.face((0, 3.3, 0), (1, 0, 0), (0, 1, 0))
    for z in (0.0,):
        face = frame.face((0, 3.3, z), (1, 0, 0), (0, 1, 0))
        for outline in (
            [(-0.5, 0), (-0.42, 0), (0.1, 0.9), (0.0, 0.9)],
            [(0.42, 0), (0.5, 0), (0.0, 0.9), (-0.1, 0.9)],
            [(-0.8, 0.88), (0.8, 0.88), (0.8, 0.98), (-0.8, 0.98)],
        ):
            paint_face(canvas, face, outline, (70, 72, 76), TRAIN, rough=0)
    return side
