"""Buses and trams."""

import numpy as np

from clouds_mmseg.datasets.toycity.look import (
    AMBER,
    BLACK,
    BUS,
    RED_LAMP,
    TRAIN,
    WHITE,
    WHITE_LAMP,
    dim,
    mix,
)
from clouds_mmseg.datasets.toycity.shapes import rect, rects
from clouds_mmseg.datasets.toycity.solids import box, extrude
from clouds_mmseg.datasets.toycity.wheels import discs, tyres

DARK = (56, 56, 60)


def draw_bus(canvas, look, frame, bus):
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


def draw_tram(canvas, look, frame, tram):
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
