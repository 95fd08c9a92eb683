"""Layout of a street and the sampling of what stands in it, from a seed."""

from dataclasses import dataclass

import numpy as np

from clouds_mmseg.datasets.toycity.buildings import Boundary, Building
from clouds_mmseg.datasets.toycity.furniture import SIGNS, Board, Post
from clouds_mmseg.datasets.toycity.people import Pedestrian, TwoWheeler
from clouds_mmseg.datasets.toycity.plants import Plant
from clouds_mmseg.datasets.toycity.street import LANE, Side, Street
from clouds_mmseg.datasets.toycity.vehicles import Vehicle

# Half of the narrowest field of view of any style, as a slope.
SLOPE = 0.45


@dataclass(frozen=True)
class Scene:
    """A street and its objects, in the order they were placed."""

    street: Street
    items: tuple


def sample_scene(seed):
    """Draw a street scene.

    Args:
        seed (int): The same seed gives the same scene.

    Returns:
        Scene: Objects do not overlap on the ground.
    """
    rng = np.random.default_rng(seed)
    street = _street(rng)
    place = _Placer(rng)
    for side in street.sides:
        _plots(place, side)
    _end(place, street)
    _traffic(place, street)
    for side, parking in zip(street.sides, street.parking, strict=True):
        _kerbside(place, street, side, parking)
    return Scene(street, tuple(place.items))


class _Placer:
    """Keeps what is placed, and refuses what would overlap."""

    def __init__(self, rng):
        self.rng = rng
        self.items = []

    def put(self, item, margin=0.3):
        x0, x1, z0, z1 = item.box
        for other in self.items:
            a0, a1, b0, b1 = other.box
            if (
                x0 < a1 + margin
                and a0 < x1 + margin
                and z0 < b1 + margin
                and b0 < z1 + margin
            ):
                return False
        self.items.append(item)
        return True

    def chance(self, share):
        return self.rng.random() < share

    def between(self, low, high):
        return float(self.rng.uniform(low, high))

    def choice(self, values, weights=None):
        index = self.rng.choice(len(values), p=weights)
        return values[int(index)]


def in_view(x, nearest):
    """Distance from which on something at x is inside the picture."""
    return max(nearest, abs(x) / SLOPE)


def _street(rng):
    lanes = [(0.0, 1, 'road')]
    x = 0.0
    if rng.random() < 0.62:
        x -= LANE
        lanes.insert(0, (x, -1, 'tram'))
    if len(lanes) == 1 or rng.random() < 0.5:
        x -= LANE
        lanes.insert(0, (x, -1, 'road'))
    parking = tuple(bool(v) for v in rng.random(2) < 0.5)
    left = x - LANE / 2 - (2.2 if parking[0] else 0.4)
    x = 0.0
    if rng.random() < 0.25:
        x += LANE
        lanes.append((x, 1, 'road'))
    right = x + LANE / 2 + (2.2 if parking[1] else 0.4)
    sides = []
    for sign, kerb in ((-1, left), (1, right)):
        verge = rng.uniform(1.2, 2.2) if rng.random() < 0.45 else 0.0
        sides.append(Side(sign, kerb, verge, rng.uniform(1.8, 3.0)))
    crosswalk = rng.uniform(8, 16) if rng.random() < 0.5 else None
    return Street(
        tuple(lanes),
        tuple(sides),
        crosswalk,
        bool(rng.random() < 0.7),
        int(rng.integers(1 << 31)),
        parking,
    )


def _plots(place, side):
    """Fill the land beyond the pavement, block after block."""
    sign, x = side.sign, side.plot + side.sign * 0.35
    z = place.between(2, 8)
    first = place.choice(['wall', 'fence', 'front', 'yard'],
                         [0.32, 0.32, 0.2, 0.16])  # fmt: skip
    while z < 110:
        length = place.between(10, 20)
        end = z + length
        kind = first or place.choice(
            ['wall', 'fence', 'front', 'yard'], [0.2, 0.2, 0.4, 0.2]
        )
        if first in ('wall', 'fence'):
            # The first one has to reach into the picture.
            end = max(end, in_view(x, 6) + place.between(6, 12))
        first = None
        if kind == 'front':
            depth = place.between(8, 14)
            xs = tuple(sorted((x, x + sign * depth)))
            place.put(
                Building(xs, (z, end), place.between(6, 17),
                         shop=place.chance(0.5)), 0.0,
            )  # fmt: skip
        else:
            if kind in ('wall', 'fence') or place.chance(0.4):
                boundary = kind if kind != 'yard' else 'hedge'
                height = place.between(1.3, 2.3)
                place.put(
                    Boundary(boundary, x, (z, end - 0.2), height,
                             picket=place.chance(0.5)), 0.0,
                )  # fmt: skip
            _yard(place, sign, x, z, end)
        z = end + (place.between(0, 4) if place.chance(0.3) else 0.05)


def _yard(place, sign, x, z, end):
    back = place.between(4, 8)
    if place.chance(0.7) and end - z > 9:
        near = x + sign * back
        xs = tuple(sorted((near, near + sign * place.between(7, 10))))
        place.put(
            Building(xs, (z + 1, end - 1.5), place.between(3.2, 6.4),
                     pitched=place.chance(0.8)), 0.0,
        )  # fmt: skip
    for _ in range(place.rng.integers(1, 4)):
        at = x + sign * place.between(1.6, max(back - 0.8, 2))
        kind = place.choice(['tree', 'conifer', 'bush'])
        height = {'tree': (5, 9), 'conifer': (4, 8), 'bush': (1.0, 1.8)}[kind]
        place.put(_plant(place, kind, at, place.between(z, end), height))


def _plant(place, kind, x, z, height):
    return Plant(
        kind, x, z, place.between(*height), int(place.rng.integers(1 << 31))
    )


def _end(place, street):
    """What one sees far down the street."""
    if place.chance(0.5):
        z = place.between(114, 150)
        x = -60.0
        while x < 60:
            width = place.between(12, 22)
            place.put(
                Building((x, x + width), (z, z + 12), place.between(9, 22)),
                0.0,
            )
            x += width
    else:
        for x in np.arange(-80, 80, 8.0):
            place.put(
                _plant(place, 'tree', float(x) + place.between(-2, 2),
                       place.between(114, 160), (9, 15))
            )  # fmt: skip


def _traffic(place, street):
    for x, direction, kind in street.lanes:
        if kind == 'tram':
            if place.chance(0.82):
                length = place.between(14, 20)
                near = in_view(abs(x) - 1.2, 7) + place.between(0, 12)
                heading = 0.0 if direction > 0 else np.pi
                place.put(
                    Vehicle('tram', x, near + length / 2, heading, length)
                )
            continue
        ego = abs(x) < 0.1
        z = place.between(7, 14) if ego else in_view(abs(x) - 1, 5)
        z += place.between(0, 8)
        while z < 75:
            big = z < 26
            if place.chance(0.32) and z < 20:
                kind = place.choice(['bicycle', 'motorcycle'])
                turn = place.choice([0.0, 0.45, -0.45, 0.7])
                heading = turn + (0.0 if direction > 0 else np.pi)
                at = x + place.between(0.3, 0.9) * direction
                place.put(TwoWheeler(kind, at, z, heading))
                z += place.between(4, 9)
                continue
            weights = [0.3, 0.34, 0.36] if big else [0.6, 0.2, 0.2]
            kind = place.choice(['car', 'truck', 'bus'], weights)
            length = 4.4
            if kind == 'car':
                kind = place.choice(['hatch', 'sedan', 'van'],
                                    [0.4, 0.4, 0.2])  # fmt: skip
            else:
                length = place.between(7.5, 11)
            heading = 0.0 if direction > 0 else np.pi
            place.put(
                Vehicle(kind, x + place.between(-0.3, 0.3), z + length / 2,
                        heading, length)
            )  # fmt: skip
            z += length + place.between(5, 16)


def _kerbside(place, street, side, parking):
    sign = side.sign
    edge = side.kerb + sign * 0.5
    start = in_view(abs(edge), 6)

    def post(kind, **options):
        z = start + place.between(0.5, 9)
        place.put(Post(kind, edge, z, -sign, **options))

    if place.chance(0.42):
        z = street.crosswalk or start + place.between(1, 8)
        place.put(
            Post('light', edge, max(z - 0.8, start + 0.5), -sign, 4.2,
                 arm=place.choice([0.0, 2.6]),
                 phase=int(place.rng.integers(3)))
        )  # fmt: skip
    if place.chance(0.6):
        post('sign', height=place.between(2.4, 2.9), sign=place.choice(SIGNS))
    for z in np.arange(start + place.between(0, 6), 80, 22.0):
        place.put(
            Post('lamp', edge, float(z), -sign, place.between(5.5, 6.5),
                 arm=1.8)
        )  # fmt: skip
    if place.chance(0.12):
        place.put(Board(edge + sign * 1.2, start + place.between(6, 14)))
    if parking:
        x = side.kerb - sign * 1.15
        z = in_view(abs(x) - 1, 4) + place.between(0, 3)
        while z < 60:
            if place.chance(0.75):
                kind = place.choice(['hatch', 'sedan', 'van'])
                heading = 0.0 if sign > 0 else np.pi
                place.put(Vehicle(kind, x, z + 2.2, heading, 4.4))
            z += 5.5
    if side.verge:
        for z in np.arange(start + place.between(0, 8), 90, 11.0):
            x = side.kerb + sign * side.verge * 0.6
            place.put(_plant(place, 'tree', x, float(z), (5, 8)), 0.6)
    walk = side.kerb + sign * (side.verge + 0.4)
    width = side.pavement - 0.8
    for kind in ('bicycle', 'motorcycle'):
        if place.chance(0.22):
            x = walk + sign * place.between(0, width)
            z = in_view(abs(x) + 0.5, 6) + place.between(0, 5)
            place.put(
                TwoWheeler(kind, x, z, sign * place.between(1.2, 1.9), False)
            )
    for _ in range(place.rng.integers(0, 4)):
        x = walk + sign * place.between(0, width)
        z = in_view(abs(x), 7) + place.between(0, 10)
        place.put(_pedestrian(place, x, z))
    for kind in ('bicycle', 'motorcycle'):
        if place.chance(0.2):
            x = walk + sign * place.between(0, width)
            z = in_view(abs(x) + 0.5, 6) + place.between(0, 6)
            heading = place.choice([-1, 1]) * place.between(1.1, 2.0)
            place.put(TwoWheeler(kind, x, z, heading))
    if street.crosswalk and place.chance(0.4):
        x = place.between(*sorted((sign * 0.8, side.kerb)))
        place.put(_pedestrian(place, x, street.crosswalk + 1.4))


def _pedestrian(place, x, z):
    return Pedestrian(
        x, z, place.between(1.55, 1.9), place.between(0.25, 0.7),
        place.choice([-1, 0, 1]), place.chance(0.35),
    )  # fmt: skip
