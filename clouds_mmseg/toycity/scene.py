"""Sampling of a scene, a street and its objects, from a seed."""

import math
from dataclasses import dataclass

import numpy as np

from clouds_mmseg.toycity.buildings import (
    Placer,
    in_view,
    place_end,
    place_plots,
    plant,
)
from clouds_mmseg.toycity.cycles import TwoWheeler
from clouds_mmseg.toycity.people import Pedestrian
from clouds_mmseg.toycity.signs import SIGNS, Board, Post
from clouds_mmseg.toycity.solids import Item
from clouds_mmseg.toycity.street import BAY, LANE, Lane, Side, Street
from clouds_mmseg.toycity.vehicles import Vehicle

CARS = ('hatch', 'sedan', 'van')
CYCLES = ('bicycle', 'motorcycle')
# No traffic beyond, in metres: it would be a few pixels high.
LAST = 55


@dataclass(frozen=True)
class Scene:
    """A street and its objects, which do not overlap on the ground."""

    street: Street
    items: tuple[Item, ...]


def sample_scene(seed: int | np.random.SeedSequence) -> Scene:
    """Draw a street scene.

    The shares are chosen for small images: a class that is rare on real
    streets (trams, motorcycles, walls) has to be seen often enough to be
    learned from a few hundred of them.

    Args:
        seed: The same seed gives the same scene.

    Returns:
        What to draw.
    """
    place = Placer(np.random.default_rng(seed))
    street = _street(place)
    for side in street.sides:
        place_plots(place, side)
    place_end(place)
    for lane in street.lanes:
        if lane.tram:
            _tram(place, lane)
        else:
            _traffic(place, lane)
    for side in street.sides:
        _kerbside(place, street, side)
        _parked(place, side)
        _walkers(place, street, side)
    return Scene(street, tuple(place.items))


def _street(place):
    lanes = [Lane(0.0, 1)]
    if place.chance(0.6):
        lanes.insert(0, Lane(-LANE, -1, tram=True))
    if len(lanes) == 1 or place.chance(0.5):
        lanes.insert(0, Lane(lanes[0].x - LANE, -1))
    if place.chance(0.25):
        lanes.append(Lane(LANE, 1))
    sides = []
    for sign, lane in ((-1, lanes[0]), (1, lanes[-1])):
        parking = place.chance(0.45)
        kerb = lane.x + sign * (LANE / 2 + (BAY if parking else 0.4))
        verge = place.between(1.2, 2.2) if place.chance(0.5) else 0.0
        pavement = place.between(1.9, 3.2)
        sides.append(Side(sign, kerb, parking, verge, pavement))
    crosswalk = place.between(8, 16) if place.chance(0.5) else None
    manholes = tuple(
        (place.between(-1.2, 0.5), place.between(5, 30)) for _ in range(3)
    )
    return Street(
        tuple(lanes),
        tuple(sides),
        crosswalk,
        place.chance(0.75),
        (place.between(-4, 0), manholes),
    )


def _heading(lane):
    return 0.0 if lane.direction > 0 else math.pi


def _tram(place, lane):
    if place.chance(0.8):
        length = place.between(14, 20)
        near = in_view(abs(lane.x) - 1.2, 8) + place.between(0, 13)
        z = near + length / 2
        place.put(Vehicle(lane.x, z, 'tram', _heading(lane), length))


def _traffic(place, lane):
    ahead = lane.x == 0
    z = place.between(7, 18) if ahead else in_view(abs(lane.x) - 1, 6)
    z += 0 if ahead else place.between(0, 9)
    while z < LAST:
        if z < 22 and place.chance(0.4):
            turn = place.choice((0.0, 0.5, -0.5, 0.8))
            x = lane.x + place.between(0.3, 0.9) * lane.direction
            heading = turn + _heading(lane)
            place.put(TwoWheeler(x, z, place.choice(CYCLES), heading))
            z += place.between(4, 9)
            continue
        # Near ones fill the image, and cars stand at the kerb as well.
        weights = (0.46, 0.3, 0.24) if z < 26 else (0.7, 0.15, 0.15)
        kind = place.choice(('car', 'truck', 'bus'), weights)
        length = 4.4 if kind == 'car' else place.between(7.5, 11)
        kind = place.choice(CARS) if kind == 'car' else kind
        x = lane.x + place.between(-0.3, 0.3)
        place.put(Vehicle(x, z + length / 2, kind, _heading(lane), length))
        z += length + place.between(5, 16)


def _kerbside(place, street, side):
    """Lights, signs, lamps and trees along the kerb."""
    towards = -side.sign
    x = side.kerb + side.sign * 0.5
    start = in_view(x, 6)
    if place.chance(0.42):
        z = start + place.between(1, 8)
        if street.crosswalk:
            z = max(street.crosswalk - 0.8, start + 0.5)
        arm, phase = place.choice((0.0, 2.6)), place.count(0, 2)
        place.put(Post(x, z, 'light', towards, 4.2, arm, phase))
    if place.chance(0.6):
        z, height = start + place.between(0.5, 9), place.between(2.4, 2.9)
        sign = place.choice(SIGNS)
        place.put(Post(x, z, 'sign', towards, height, sign=sign))
    for z in np.arange(start + place.between(0, 6), 80, 22.0).tolist():
        place.put(Post(x, z, 'lamp', towards, place.between(5.5, 6.5), 1.8))
    if place.chance(0.12):
        z = start + place.between(6, 14)
        place.put(Board(x + side.sign * 1.2, z))
    if side.verge:
        x = side.kerb + side.sign * side.verge * 0.6
        for z in np.arange(start + place.between(0, 8), 90, 11.0).tolist():
            place.put(plant(place, 'tree', x, z, (5, 8)), 0.6)


def _parked(place, side):
    """Cars in the bays, two-wheelers on the pavement."""
    if side.parking:
        x = side.kerb - side.sign * (BAY / 2 + 0.05)
        heading = 0.0 if side.sign > 0 else math.pi
        z = in_view(abs(x) - 1, 5) + place.between(2, 6)
        while z < LAST:
            if place.chance(0.7):
                place.put(Vehicle(x, z, place.choice(CARS), heading))
            z += 5.5
    for kind in CYCLES:
        if place.chance(0.26):
            x = _on_pavement(place, side)
            z = in_view(abs(x) + 0.6, 6) + place.between(0, 5)
            heading = side.sign * place.between(1.2, 1.9)
            place.put(TwoWheeler(x, z, kind, heading, ridden=False))


def _walkers(place, street, side):
    """Pedestrians and cyclists on the pavement and the crosswalk."""
    for _ in range(place.count(0, 4)):
        x = _on_pavement(place, side)
        _walker(place, x, in_view(abs(x) + 0.3, 7) + place.between(0, 10))
    for kind in CYCLES:
        if place.chance(0.24):
            x = _on_pavement(place, side)
            z = in_view(abs(x) + 0.6, 6) + place.between(0, 6)
            heading = place.choice((-1, 1)) * place.between(1.1, 2.0)
            place.put(TwoWheeler(x, z, kind, heading))
    if street.crosswalk and place.chance(0.45):
        x = place.between(side.sign * 0.8, side.kerb)
        _walker(place, x, street.crosswalk + 1.4)


def _on_pavement(place, side):
    return side.edge + side.sign * place.between(0.4, side.pavement - 0.4)


def _walker(place, x, z):
    person = Pedestrian(
        x,
        z,
        place.between(1.6, 1.92),
        place.between(0.25, 0.7),
        place.choice((-1, 0, 1)),
        place.chance(0.5),
        place.chance(0.35),
    )
    place.put(person)
