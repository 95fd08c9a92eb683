"""Buildings, plants and boundaries along a street."""

import math
from bisect import bisect
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import TypeVar

import numpy as np

from clouds_mmseg.toycity.camera import Face
from clouds_mmseg.toycity.canvas import Canvas
from clouds_mmseg.toycity.solids import (
    Footprint,
    Item,
    bar,
    box,
    centred,
    disc,
    ground_shadow,
    rect,
    rects,
)
from clouds_mmseg.toycity.street import Side
from clouds_mmseg.toycity.styles import (
    BUILDING,
    FENCE,
    VEGETATION,
    WALL,
    WARM_LAMP,
    WHITE,
    Look,
    dim,
    mix,
)


@dataclass(frozen=True)
class Boundary(Item):
    """A wall, a fence or a hedge along the street.

    Attributes:
        kind: 'wall', 'fence' or 'hedge'.
        length: Extent along the street in metres, from z on.
        height: Height in metres.
        picket: Whether a fence is of upright boards, not of wire and rails.
    """

    kind: str = 'wall'
    length: float = 10.0
    height: float = 1.6
    picket: bool = False

    reach = 0.4

    @property
    def box(self) -> Footprint:
        """Footprint (x0, x1, z0, z1) in metres."""
        return (self.x - 0.2, self.x + 0.2, self.z, self.z + self.length)

    @property
    def top(self) -> float:
        """Height in metres."""
        return self.height

    @property
    def solid(self) -> float:
        """Height in metres; one sees through a fence."""
        return 0.0 if self.kind == 'fence' else self.height

    def draw(self, canvas: Canvas, look: Look) -> None:
        """Paint the boundary."""
        frame = canvas.camera.frame(self.x, self.z)
        draw = {'wall': self._wall, 'fence': self._fence, 'hedge': self._hedge}
        draw[self.kind](canvas, look, frame)

    def _block(self, canvas, frame, half, colour, class_id, **options):
        return box(
            canvas,
            frame,
            (-half, half),
            (0, self.height),
            (0, self.length),
            colour,
            class_id,
            **options,
        )

    def _wall(self, canvas, look, frame):
        stone = look.pick('wall')
        colours = {None: stone, 'top': dim(stone, 1.1)}
        faces = self._block(canvas, frame, 0.2, colours, WALL, rough=0.6)
        joint = dim(stone, 0.72)
        rows = np.arange(0.5, self.height - 0.2, 0.5)
        coping = rect(0, self.height - 0.2, self.length, self.height)
        for name in ('left', 'right'):
            face = faces.get(name)
            canvas.detail(face, rects([0.0], rows, self.length, 0.05), joint)
            upright = [
                rects(
                    np.arange(i % 2 / 2, self.length, 1), [v - 0.5], 0.05, 0.5
                )
                for i, v in enumerate(rows)
            ]
            if upright:
                canvas.detail(face, np.concatenate(upright), joint)
            canvas.detail(face, [coping], dim(stone, 1.15))

    def _fence(self, canvas, look, frame):
        paint, top = look.pick('fence'), self.height
        length = self.length
        face = frame.face((0, 0, 0), (0, 0, 1), (0, 1, 0))
        panel = canvas.paint(
            face,
            rect(0, 0, length, top),
            paint,
            FENCE,
            rough=0.1,
            opacity=0.3,
        )
        if self.picket:
            boards = rects(np.arange(0, length, 0.32), [0.0], 0.2, top)
            canvas.detail(panel, boards, paint)
            rails, shade = (top * 0.22, top * 0.72), dim(paint, 0.7)
        else:
            for sign in (-1, 1):
                wire = [
                    bar((u, 0.05), (u + sign * top, top), 0.045)
                    for u in np.arange(0, length, 0.5)
                    if 0 <= u + sign * top <= length
                ]
                canvas.detail(
                    panel,
                    np.array(wire).reshape(-1, 4, 2),
                    dim(paint, 0.85),
                )
            rails, shade = (0.1, top - 0.1), paint
        canvas.detail(panel, rects([0.0], rails, length, 0.11), shade)
        posts = rects(np.arange(0, length, 2.0), [0.0], 0.18, top)
        canvas.detail(panel, posts, dim(paint, 0.8))

    def _hedge(self, canvas, look, frame):
        leaf = look.pick('leaf')
        colours = {None: leaf, 'top': dim(leaf, 1.2)}
        faces = self._block(
            canvas, frame, 0.45, colours, VEGETATION, rough=0.9
        )
        # Darker and lighter tufts keep it from looking like a green wall.
        for factor in (0.78, 1.2):
            spots = look.rng.uniform(
                (0, 0), (self.length - 0.6, self.height - 0.4), (14, 2)
            )
            tufts = np.array(
                [
                    [(u, v), (u + 0.35, v - 0.08), (u + 0.55, v + 0.2),
                     (u + 0.25, v + 0.4)]
                    for u, v in spots
                ]
            )  # fmt: skip
            for name in ('left', 'right'):
                canvas.detail(faces.get(name), tufts, dim(leaf, factor))


T = TypeVar('T')
# A facade of fewer pixels of the canvas than this shows no windows.
PLAIN = 14


@dataclass(frozen=True)
class Building(Item):
    """A block of a street front, or a house with a pitched roof.

    Attributes:
        width: Extent across the street in metres, around x.
        length: Extent along the street in metres, from z on.
        height: Height of the eaves in metres.
        pitched: Whether it has a gable roof.
        shop: Whether the ground floor is a shop window.
    """

    width: float = 10.0
    length: float = 12.0
    height: float = 9.0
    pitched: bool = False
    shop: bool = False

    reach = 0.5

    @property
    def box(self) -> Footprint:
        """Footprint (x0, x1, z0, z1) in metres."""
        half = self.width / 2
        return (self.x - half, self.x + half, self.z, self.z + self.length)

    @property
    def top(self) -> float:
        """Height of the ridge or of the flat roof in metres."""
        return self.height + (0.4 * self.width if self.pitched else 0.1)

    @property
    def solid(self) -> float:
        """Height of the walls in metres."""
        return self.height

    def draw(self, canvas: Canvas, look: Look) -> None:
        """Paint the building."""
        plaster, trim = look.pick('building'), look.pick('kerb')
        roof = look.pick('roof')
        colours = (look.pick('window'), look.pick('door'), look.pick('shop'))
        frame = canvas.camera.frame(self.x, self.z)
        half = self.width / 2
        faces = box(
            canvas,
            frame,
            (-half, half),
            (0, self.height),
            (0, self.length),
            {None: plaster, 'top': roof},
            BUILDING,
            rough=0.5,
        )
        if self.pitched:
            self._roof(canvas, frame, plaster, roof)
        for name in ('left', 'right', 'back'):
            if name in faces:
                extent = self.width if name == 'back' else self.length
                self._facade(canvas, look, faces[name], extent, colours, trim)

    def _roof(self, canvas, frame, plaster, roof):
        half = self.width / 2
        rise = 0.32 * self.width
        length = self.length + 0.6
        for sign in (-1, 1):
            eaves = (sign * (half + 0.4), self.height - 0.2, -0.3)
            up = (-sign * (half + 0.4), rise + 0.2, 0)
            along = (0, 0, 1)
            # v x u has to point outwards on either side.
            slope = frame.face(eaves, *((up, along)[::-sign]))
            if slope.seen:
                outline = rect(0, 0, *((1, length)[::-sign]))
                canvas.paint(slope, outline, roof, BUILDING, rough=0.5)
        gable = frame.face((-half, self.height, 0), (1, 0, 0), (0, 1, 0))
        outline = [(0, 0), (self.width, 0), (half, rise)]
        canvas.paint(gable, outline, plaster, BUILDING, rough=0.5)

    def _facade(self, canvas, look, face, length, colours, trim):
        if self._extent(canvas, face, length) < PLAIN:
            return
        window, door, shop = colours
        floors = max(int(self.height // 3.1), 1)
        rise = self.height / floors
        bays = max(int(length // 2.6), 1)
        step = length / bays
        us = np.arange(bays) * step + step * 0.27
        start = 1 if floors > 1 else 0
        vs = np.arange(start, floors) * rise + rise * 0.28
        width, height = step * 0.46, rise * 0.52
        edge = 0.1
        frames = rects(us - edge, vs - edge, width + 2 * edge, height + 0.2)
        canvas.detail(face, frames, trim)
        panes = rects(us, vs, width, height)
        lit = look.rng.random(len(panes))
        canvas.detail(face, panes[lit >= 0.35], window)
        for low, high, glow in ((0, 0.18, 0.4), (0.18, 0.35, 0.75)):
            canvas.detail(
                face,
                panes[(lit >= low) & (lit < high)],
                mix(window, WHITE, 0.12),
                glow=dim(WARM_LAMP, glow),
            )
        cornice = rect(0, self.height - 0.35, length, self.height)
        canvas.detail(face, [cornice], trim)
        if start == 0:
            return
        if self.shop:
            panes = rects(us - step * 0.18, [0.45], step * 0.8, rise - 1.2)
            canvas.detail(face, panes, shop, glow=dim(WARM_LAMP, 0.5))
            sign = rect(0, rise - 0.6, length, rise - 0.1)
            canvas.detail(face, [sign], door)
            return
        doors = rects(us[::2], [0.1], step * 0.4, rise * 0.7)
        canvas.detail(face, doors, door)
        canvas.detail(face, rects(us[1::2], [0.9], width, height), window)

    def _extent(self, canvas, face: Face, length):
        """Roughly how many pixels of the canvas a facade is wide."""
        camera = canvas.camera
        columns = [
            camera.focal * x / max(z, 1.0)
            for x, _, z in (face.point(0, 0), face.point(length, 0))
        ]
        return abs(columns[1] - columns[0])


# A plant of fewer pixels of the canvas than this is drawn with few leaves.
SMALL = 110


@dataclass(frozen=True)
class Plant(Item):
    """A tree, a conifer or a bush.

    Attributes:
        kind: 'tree', 'conifer' or 'bush'.
        height: Height in metres.
        seed: What shapes the crown.
    """

    kind: str = 'tree'
    height: float = 6.0
    seed: int = 0

    @property
    def reach(self) -> float:
        """How far the crown sticks out over the stem, in metres."""
        return self.height * (0.9 if self.kind == 'bush' else 0.45)

    @property
    def box(self) -> Footprint:
        """Footprint (x0, x1, z0, z1) of the stem in metres."""
        return centred(self.x, self.z, 0.3, 0.3)

    @property
    def top(self) -> float:
        """Height in metres."""
        return 1.15 * self.height

    def draw(self, canvas: Canvas, look: Look) -> None:
        """Paint the stem, then the crown from the shade into the light."""
        camera, height = canvas.camera, self.height
        leaf, trunk = look.pick('leaf'), look.pick('trunk')
        frame = camera.frame(self.x, self.z)
        ground_shadow(canvas, look, frame, 0.25 * height, 0.15 * height)
        # From here on a unit is the height of the plant.
        face = camera.billboard(self.x, self.z, height)

        def leaves(outline, factor):
            canvas.paint(
                face,
                outline,
                dim(leaf, factor),
                VEGETATION,
                rough=0.9,
                shade=False,
            )

        if self.kind != 'bush':
            stem = [(-0.035, 0), (0.035, 0), (0.025, 0.55), (-0.025, 0.55)]
            canvas.paint(face, stem, trunk, VEGETATION, rough=0.6, shade=False)
        if self.kind == 'conifer':
            for i in range(4):
                low, half = 0.15 + 0.19 * i, 0.24 - 0.045 * i
                tier = [(-half, low), (half, low), (0, low + 0.34)]
                leaves(tier, 0.8 + 0.12 * i)
            return
        small = canvas.scale_at(self.z) * height < SMALL
        _crown(leaves, self.kind, 4 if small else 8, self.seed)


def _crown(leaves, kind, count, seed):
    rng = np.random.default_rng(seed)
    centre, spread = (0.68, 0.24) if kind == 'tree' else (0.45, 0.5)
    clumps = []
    for angle, away, size in rng.random((count, 3)).tolist():
        away = math.sqrt(0.1 + 0.9 * away) * spread
        u = away * math.cos(2 * math.pi * angle)
        v = away * 0.75 * math.sin(2 * math.pi * angle)
        clumps.append((u, v, spread * (0.55 + 0.25 * size)))
    leaves(disc(0, centre, spread, stretch=0.85), 0.8)
    for u, v, size in clumps:
        leaves(disc(u, centre + v, size, points=9, turn=u), 0.82)
    for u, v, size in clumps:
        lit = disc(
            u - size * 0.12,
            centre + v + size * 0.2,
            size * 0.66,
            points=9,
            turn=v,
        )
        leaves(lit, 1.0 + 0.3 * v / spread)


# Half of the narrowest field of view of the styles here, as a slope.
SLOPE = 0.45


class Placer:
    """Collection of placed items, which refuses overlapping ones.

    Args:
        rng: Source of all choices.
    """

    def __init__(self, rng: np.random.Generator):
        self.rng = rng
        self.items = []
        self._boxes = np.empty((512, 4))

    def put(self, item: Item, margin: float = 0.3) -> bool:
        """Place an item unless its footprint overlaps another's.

        Args:
            item: What.
            margin: Least gap to the others in metres.

        Returns:
            Whether there was room.
        """
        x0, x1, z0, z1 = item.box
        count = len(self.items)
        a0, a1, b0, b1 = self._boxes[:count].T
        overlap = (x0 < a1 + margin) & (a0 < x1 + margin)
        overlap &= (z0 < b1 + margin) & (b0 < z1 + margin)
        if overlap.any() or count == len(self._boxes):
            return False
        self._boxes[count] = item.box
        self.items.append(item)
        return True

    def chance(self, share: float) -> bool:
        """Return True with the probability ``share``."""
        return bool(self.rng.random() < share)

    def between(self, low: float, high: float) -> float:
        """Sample a number uniformly."""
        return low + (high - low) * float(self.rng.random())

    def count(self, low: int, high: int) -> int:
        """Sample an integer from ``low`` to ``high``, both included."""
        return int(self.rng.integers(low, high + 1))

    def choice(
        self, values: Sequence[T], weights: Sequence[float] | None = None
    ) -> T:
        """Sample one of the values; weights need not sum to 1."""
        if weights is None:
            return values[int(self.rng.integers(len(values)))]
        sums = list(accumulate(weights))
        return values[bisect(sums[:-1], self.rng.random() * sums[-1])]

    def seed(self) -> int:
        """Sample the seed of an item."""
        return int(self.rng.integers(1 << 31))


def in_view(x: float, nearest: float) -> float:
    """Distance in metres from which on something at x is in the image."""
    return max(nearest, abs(x) / SLOPE)


# Where the street ends, in metres.
END = 110
HEIGHTS = {'tree': (5, 9), 'conifer': (4, 8), 'bush': (1.0, 1.8)}
KINDS = ('wall', 'fence', 'front', 'yard')


def place_plots(place: Placer, side: Side) -> None:
    """Place buildings, boundaries and plants along one side.

    Args:
        place: Where to.
        side: Which side of the street.
    """
    x = side.plot + side.sign * 0.35
    z = place.between(2, 8)
    # The first block is the one that is seen best.
    kind = place.choice(KINDS, (0.33, 0.33, 0.2, 0.14))
    end = z + place.between(10, 20)
    if kind in ('wall', 'fence'):
        end = max(end, in_view(x, 6) + place.between(7, 13))
    while z < END:
        if kind == 'front':
            _front(place, side.sign, x, z, end)
        else:
            if kind != 'yard' or place.chance(0.4):
                _boundary(place, kind, x, z, end)
            _yard(place, side.sign, x, z, end)
        gap = place.between(1, 4) if place.chance(0.3) else 0.05
        z = end + gap
        end = z + place.between(10, 20)
        kind = place.choice(KINDS, (0.2, 0.2, 0.4, 0.2))


def place_end(place: Placer) -> None:
    """Close the view down the street with houses or with trees."""
    x = -60.0
    houses = place.chance(0.5)
    while x < 60:
        if houses:
            width = place.between(12, 22)
            z, height = place.between(114, 130), place.between(9, 22)
            house = Building(x + width / 2, z, width, 12.0, height)
            place.put(house, 0.0)
            x += width + 0.1
        else:
            z = place.between(114, 150)
            place.put(plant(place, 'tree', x, z, (10, 16)))
            x += place.between(5, 9)


def plant(
    place: Placer,
    kind: str,
    x: float,
    z: float,
    heights: tuple[float, float] | None = None,
) -> Plant:
    """Return a plant of random height."""
    low, high = heights or HEIGHTS[kind]
    return Plant(x, z, kind, place.between(low, high), place.seed())


def _front(place, sign, x, z, end):
    depth = place.between(8, 14)
    block = Building(
        x + sign * depth / 2,
        z,
        depth,
        end - z,
        place.between(6, 17),
        shop=place.chance(0.5),
    )
    place.put(block, 0.0)


def _boundary(place, kind, x, z, end):
    boundary = Boundary(
        x,
        z,
        'hedge' if kind == 'yard' else kind,
        end - z - 0.2,
        place.between(1.3, 2.3),
        place.chance(0.5),
    )
    place.put(boundary, 0.0)


def _yard(place, sign, x, z, end):
    back = place.between(4, 8)
    if place.chance(0.7) and end - z > 9:
        width = place.between(7, 10)
        house = Building(
            x + sign * (back + width / 2),
            z + 1,
            width,
            end - z - 2.5,
            place.between(3.2, 6.4),
            pitched=place.chance(0.8),
        )
        place.put(house, 0.0)
    for _ in range(place.count(1, 3)):
        at = x + sign * place.between(1.6, max(back - 0.8, 2))
        kind = place.choice(tuple(HEIGHTS))
        place.put(plant(place, kind, at, place.between(z, end)))
