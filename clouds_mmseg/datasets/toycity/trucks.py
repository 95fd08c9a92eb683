"""Lorries: a cab, a frame, and a box without windows."""

import math

import numpy as np

from clouds_mmseg.datasets.toycity.look import (
    BLACK,
    RED_LAMP,
    TRUCK,
    WHITE,
    WHITE_LAMP,
    dim,
    mix,
)
from clouds_mmseg.datasets.toycity.shapes import rect, rects
from clouds_mmseg.datasets.toycity.solids import box
from clouds_mmseg.datasets.toycity.wheels import discs, tyres

CAB = 2.1


def draw_truck(canvas, look, frame, truck):
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
