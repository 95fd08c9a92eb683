"""Hatchbacks, saloons and vans."""

from clouds_mmseg.datasets.toycity.look import (
    BLACK,
    CAR,
    RED_LAMP,
    WHITE,
    WHITE_LAMP,
    dim,
    mix,
)
from clouds_mmseg.datasets.toycity.shapes import rect
from clouds_mmseg.datasets.toycity.solids import extrude
from clouds_mmseg.datasets.toycity.wheels import discs, tyres

PLATE = (236, 236, 226)
# The cabin seen from the side, from the rear window's foot over the roof to
# the windscreen's: (forward, up) in metres; and half of the body's length.
CABINS = {
    'hatch': ([(-1.95, 0.92), (-1.62, 1.46), (0.35, 1.5), (1.1, 0.94)], 2.05),
    'sedan': ([(-1.5, 0.92), (-0.95, 1.4), (0.35, 1.42), (1.05, 0.92)], 2.2),
    'van': ([(-2.15, 0.98), (-2.05, 1.86), (0.85, 1.9), (1.5, 1.0)], 2.2),
}
AXLES = (-1.32, 1.36)


def draw_car(canvas, look, frame, car):
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
