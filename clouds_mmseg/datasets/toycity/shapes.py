"""Outlines on a face: corners (u, v) in metres."""

import math

import numpy as np


def rect(u0, v0, u1, v1):
    """A rectangle between two opposite corners."""
    return [(u0, v0), (u1, v0), (u1, v1), (u0, v1)]


def rects(us, vs, width, height):
    """Rectangles (N, 4, 2) with lower left corners at all (u, v) pairs."""
    corners = [
        rect(u, v, u + width, v + height)
        for v in map(float, vs)
        for u in map(float, us)
    ]
    return np.array(corners).reshape(-1, 4, 2)


def disc(u, v, radius, *, points=12, stretch=1.0, turn=0.0):
    """A circle, or an ellipse ``stretch`` times as high."""
    step = 2 * math.pi / points
    return [
        (
            u + radius * math.cos(i * step + turn),
            v + radius * stretch * math.sin(i * step + turn),
        )
        for i in range(points)
    ]


def ring(u, v, radius, inner, *, points=16):
    """A circle with a hole, as quadrilaterals (N, 4, 2)."""
    out = np.array(disc(u, v, radius, points=points))
    mid = np.array(disc(u, v, inner, points=points))
    return np.stack([out, np.roll(out, -1, 0), np.roll(mid, -1, 0), mid], 1)


def bar(a, b, width):
    """A straight stroke from point a to point b."""
    (ax, ay), (bx, by) = a, b
    dx, dy = bx - ax, by - ay
    scale = width / 2 / (math.hypot(dx, dy) or 1.0)
    nx, ny = -dy * scale, dx * scale
    return [
        (ax + nx, ay + ny),
        (bx + nx, by + ny),
        (bx - nx, by - ny),
        (ax - nx, ay - ny),
    ]
